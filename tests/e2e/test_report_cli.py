"""`tierline report` and `--plot` as a user calls them; the report in a real browser."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

SHORT = "smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --new 5 --context 211"
NAME = "<img src=x onerror=alert(1)>"


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


class Page(HTMLParser):
    """What a document holds: elements with attributes, and the text of its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.words.append(data)
        else:
            self.scripts[self._script] = data


@pytest.fixture(scope="module", name="reported")
def report_of_a_hostile_machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a report on a machine whose file has HTML in every text, and that file."""
    folder = tmp_path_factory.mktemp("report")
    machine, page = folder / "machine.toml", folder / "report.html"
    machine.write_text(
        f"""
title = "{NAME}"
notes = ["{NAME} </script><script>alert(2)</script>"]

[tiers.ram]
capacity = {{ value = "97MiB", kind = "assumed", source = "{NAME} javascript:alert(3)" }}
sustained = {{ value = "1.3GB/s", kind = "assumed", source = "here" }}

[tiers.host]
capacity = {{ value = "64GiB", kind = "assumed", source = "here" }}

[links.usb]
from = "host"
to = "ram"
sustained = {{ value = "37MB/s", kind = "assumed", source = "here" }}
""",
        encoding="utf-8",
    )
    words = f"report smolvlm2-256m --on {shlex.quote(str(machine))} --weights mxfp8 -o {page}"
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(words))
    assert not ended.value.code
    return page, machine


def test_a_report_loads_nothing_and_escapes_names(reported: tuple[Path, Path]) -> None:
    page = Page(reported[0].read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "data", "action"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), tag
        if "href" in attributes:
            assert tag == "a"
            assert re.match("https?://", attributes["href"] or "")
    policy = next(a for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'")
    styles = "".join(page.words)
    assert not re.search(r"url\(|@import", styles)
    assert "".join(page.words).count(NAME) >= 3  # title, note and source, as text


def test_a_report_holds_the_plan(reported: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = reported[0].read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    code, out, _ = run(f"plan smolvlm2-256m --on {reported[1]} --weights mxfp8 --json", capsys)
    assert code == 0
    plan = json.loads(out)
    assert plan["strategy"] == "streamed"
    for figure in (*plan["footprint"]["by_component_bytes"].values(), plan["footprint"]["total_bytes"]):
        assert f"{figure:,}" in words
    for line in plan["remedies"]:
        assert " ".join(line.split()) in words
    for phase in plan["phases"]:
        for link in phase["links"]:
            assert f"{link['traffic_bytes']:,}" in words
    charts = [a["id"] for _, a in page.elements if a.get("class") == "chart"]
    assert {"memory", "traffic", "roofline-1", "timeline", "budget", "link"} <= set(charts)
    for chart in charts:
        assert json.loads(page.scripts[f"{chart}-data"])["data"]
    memory = json.loads(page.scripts["memory-data"])
    drawn = sum(value for trace in memory["data"] for value in trace["x"])
    used = sum(tier["used_bytes"] for tier in plan["tiers"])
    assert drawn * 2**20 == pytest.approx(used)


def test_the_command_in_a_report_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = f"report {SHORT} -o a.html --set usb2.peak=90MB/s --set 'usb2.sustained=83MB/s' --no-hoist"
    assert run(f"{asked} --keep norms=fp32 --batch 3", capsys)[0] == 0
    first = Path("a.html").read_text(encoding="utf-8")
    command = "".join(Page(first).words).partition("Make it again")[2].partition("Made by")[0].strip()
    assert command.startswith("tierline report smolvlm2-256m --on nexys-video")
    assert "--no-hoist" in command
    Path("a.html").unlink()
    assert run(command.removeprefix("tierline "), capsys)[0] == 0
    assert Path("a.html").read_text(encoding="utf-8") == first


def test_report_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.html"
    code, out, _ = run(f"report {SHORT} -o {path} --json", capsys)
    found = json.loads(out)
    assert code == 0
    assert found["report_bytes"] == path.stat().st_size
    assert found["plan"]["model"] == "smolvlm2-256m"


def test_a_plan_that_is_impossible_still_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.html"
    assert run(f"report {SHORT} --set ddr3.capacity=2MiB -o {path}", capsys)[0] == 0
    words = "".join(Page(path.read_text(encoding="utf-8")).words)
    assert "Impossible: needs" in words
    assert "nothing that the planner knows works" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"report {SHORT} -o report.pdf", "ends in .html"),
        (f"report {SHORT} -o nowhere/report.html", "No such file"),
        (f"plan {SHORT} --figure memory", "goes with --plot"),
        (f"plan {SHORT} --plot a.svg --figure timeline", "want one of memory"),
        (f"plan {SHORT} --plot a.jpeg", "ends in .png"),
        ("plan smolvlm2-256m --on nexys-video --training adamw --plot a.svg", "--training"),
        (f"simulate {SHORT} --plot a.svg --figure memory", "want one of timeline"),
        (f"roofline {SHORT} --plot a.gif", "ends in .png"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = run(arguments, capsys)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("figure", ["memory", "formats", "context", "traffic", "budget", "link"])
def test_plan_draws_its_figures(figure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "figure.svg"
    assert run(f"plan {SHORT} --plot {path} --figure {figure}", capsys)[0] == 0
    words = {
        "memory": "memory map",
        "formats": "by format",
        "context": "as the context grows",
        "traffic": "traffic of one pass",
        "budget": "speed against memory",
        "link": "break-even",
    }
    assert words[figure] in path.read_text(encoding="utf-8")


def test_simulate_draws_residency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "figure.svg"
    assert run(f"simulate {SHORT} --plot {path} --figure residency", capsys)[0] == 0
    assert "ddr3 has 512.0 MiB" in path.read_text(encoding="utf-8")


def test_a_browser_draws_every_figure(reported: tuple[Path, Path], until: Callable[..., None]) -> None:
    """Dark, at phone width, then light: all drawn, no message in the console, no network."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium is installed")
    said: list[str] = []
    asked: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(reported[0].as_uri())
        charts = page.locator(".chart").count()
        assert charts >= 8
        assert page.locator(".chart .main-svg .cartesianlayer").count() == charts
        ink = "document.querySelector('#memory .xtick text').style.fill"
        assert page.evaluate(ink) == "rgb(232, 232, 232)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        wide = "[...document.querySelectorAll('.scroll')].filter(t => t.scrollWidth > t.clientWidth).length"
        assert page.evaluate(wide) == 0
        titles = "[...document.querySelectorAll('.gtitle')].map(t => t.getBoundingClientRect().right)"
        assert max(page.evaluate(titles)) <= 390
        page.emulate_media(color_scheme="light")
        until(page, f"{ink} === 'rgb(26, 26, 26)'")
        page.locator("#memory .bars .point path").first.hover(force=True)
        assert "stays here" in page.locator("#memory .hovertext").first.text_content()
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
