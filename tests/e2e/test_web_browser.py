"""The page in a real browser: Debian's Chromium, driven by Playwright, headless."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tierline.cli.main import main
from tierline.live import LinkNow, Publisher, RunNow, TierNow
from tierline.models.gguf_header import read_gguf

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
IDLE = "html[data-state=idle]"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    (folder / "tierline").mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="module")
def address(runtime: Path) -> Iterator[str]:
    """Where `tierline web` says that it is."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tierline", "web", "--port", "0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip
    assert server.stdout is not None
    yield server.stdout.readline().split()[0]
    server.terminate()
    server.wait(10)
    server.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    """One window for all tests: it compiles the figures' script once."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """The window, whose console has to stay silent."""
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # the network's own line about an answer that is not 2xx, which the page shows as a message
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            said.append(message.text)

    def fail(error: Exception) -> None:
        said.append(str(error))

    window.set_viewport_size({"width": 1280, "height": 800})
    window.emulate_media(color_scheme="light")
    window.set_default_timeout(20_000)
    window.on("console", listen)
    window.on("pageerror", fail)
    yield window
    window.remove_listener("console", listen)
    window.remove_listener("pageerror", fail)
    assert said == []


def drawn(page: Page, figure: str) -> None:
    """Scroll to a figure and wait until it is drawn."""
    page.locator(f"#{figure}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{figure}[data-drawn]")


def opened(page: Page, address: str, query: str = "") -> Page:
    page.goto(address + query)
    page.wait_for_selector(IDLE)
    return page


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert not ended.value.code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def figures(page: Page, side: int = 0) -> dict[str, Any]:
    """Return what the page's table says: the path in the JSON and the value behind each text."""
    cells = page.locator(f"#facts td[data-side='{side}'][data-value]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.key, cell.dataset.value])"
    )
    return {key: json.loads(value) for key, value in cells}


def expected(document: dict[str, Any], simulated: dict[str, Any] | None, keys: list[str]) -> dict[str, Any]:
    """Return what the command line says under the same keys."""
    whole: Any = {**document, "simulation": simulated}
    whole["phases"] = {phase["name"]: phase for phase in document["phases"]}
    found = {}
    for key in keys:
        at = whole
        for part in key.split("."):
            at = at[int(part)] if isinstance(at, list) else at[part]
        found[key] = at
    return found


class Controls:
    """Changes one control after the other, and says what the command line would be given."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.model, self.machine = "smolvlm2-256m", "nexys-video"
        self.shared: dict[str, str] = {"--weights": "mxfp8:block=8", "--context": "1024"}
        self.regime: dict[str, str] = {}
        self.repeated: list[str] = []

    def set(self, control: str, value: str) -> None:
        """Type or choose `value`, and wait until the page has answered."""
        target = self.page.locator(f"[id='{control}']")
        if target.evaluate("control => control.tagName") == "SELECT":
            target.select_option(value)
        else:
            target.fill(value)
        self.page.wait_for_selector(IDLE)

    def check(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Hold every figure on the page against plan and simulate on the command line."""
        shown = figures(self.page)
        assert len(shown) > 8
        shared = [word for pair in self.shared.items() for word in pair] + self.repeated
        where = [self.model, "--on", self.machine, *shared]
        document = printed(["plan", *where], capsys)
        main_phase = max(reversed(document["phases"]), key=lambda p: p["passes"])["name"]
        regime = [word for pair in self.regime.items() for word in pair]
        simulated = printed(["simulate", *where, *regime, "--phase", main_phase, "--passes", "4"], capsys)
        assert shown == expected(document, simulated, list(shown))


CHANGES = [
    ("weights", "--weights", "int8:group=128"),
    ("kv", "--kv", "fp8"),
    ("activations", "--activations", "fp32"),
    ("activation_policy", "--activation-policy", "layer-io"),
    ("context", "--context", "1031"),
    ("new", "--new", "17"),
    ("prompt_tokens", "--prompt-tokens", "1014"),
    ("batch", "--batch", "3"),
    ("images", "--images", "2"),
]
REGIME = [
    ("strategy", "--strategy", "layer-swap"),
    ("capacity", "--capacity", "200MiB"),
    ("policy", "--policy", "lru"),
    ("prefetch_depth", "--prefetch-depth", "2"),
]


def test_every_control_changes_the_figures_as_the_command_line_does(
    page: Page, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    controls = Controls(opened(page, address))
    controls.check(capsys)
    for control, option, value in CHANGES:
        before = figures(page)
        controls.set(control, value)
        controls.shared[option] = value
        controls.check(capsys)
        if control not in ("prompt_tokens",):  # it says what context and new say already
            assert figures(page) != before, control
    for control, option, value in REGIME:
        controls.set(control, value)
        controls.regime[option] = value
        if control != "strategy":  # layer-swap alone wants more than the board has
            controls.check(capsys)
    page.get_by_text("Change its numbers").click()
    controls.set("number-ddr3.sustained", "1.3GB/s")
    controls.repeated += ["--set", "ddr3.sustained=1.3GB/s"]
    page.get_by_label("Class or component").select_option("norms")
    page.get_by_label("Its format").fill("fp32")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.wait_for_selector(IDLE)
    controls.repeated += ["--keep", "norms=fp32"]
    controls.check(capsys)
    page.reload()  # the address alone brings all of it back
    page.wait_for_selector(IDLE)
    controls.check(capsys)
    page.get_by_role("button", name="keep norms=fp32 no longer").click()
    page.wait_for_selector(IDLE)
    controls.repeated = controls.repeated[:2]
    controls.check(capsys)
    touched = {c for c, _, _ in (*CHANGES, *REGIME)} | {"model", "machine", "steps"}
    assert touched == set(page.locator("[data-field]").evaluate_all("all => all.map(c => c.dataset.field)"))


def test_another_model_and_machine_bring_their_own_controls(
    page: Page, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    controls = Controls(opened(page, address))
    assert not page.get_by_label("Denoising steps").is_visible()
    controls.set("machine", "alveo-u280")
    controls.machine = "alveo-u280"
    controls.check(capsys)
    controls.set("model", "smolvla")
    controls.model = "smolvla"
    controls.set("steps", "7")
    controls.shared["--steps"] = "7"
    controls.check(capsys)
    controls.set("model", "gpt2")
    assert not page.get_by_label("Images").is_visible()


def test_two_settings_stand_side_by_side_and_in_the_address(
    page: Page, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    controls = Controls(opened(page, address))
    page.get_by_label("two settings side by side").check()
    page.get_by_label("change B").check()
    page.wait_for_selector(IDLE)
    controls.set("weights", "mxfp4")
    both = [figures(page, side)["footprint.weights_bytes"] for side in (0, 1)]
    assert both[0] > both[1]
    other = opened(page.context.new_page(), page.url)
    assert [figures(other, side)["footprint.weights_bytes"] for side in (0, 1)] == both
    assert other.locator("#verdict-1").is_visible()
    drawn(other, "memory-1")
    other.close()
    controls.check(capsys)  # A is as it was


def test_a_report_and_the_command_line_can_be_taken_along(
    page: Page, address: str, tmp_path: Path, until: Callable[..., None]
) -> None:
    opened(page, address)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as a report").click()
    saved.value.save_as(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    command = page.locator("#commands-0 code").first.inner_text()
    assert command == "tierline plan smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --context 1024"
    assert command.replace("tierline plan smolvlm2-256m --on nexys-video", "") in text
    page.get_by_role("button", name="Copy the link").click()
    until(page, "document.getElementById('said').textContent !== ''")


def test_a_slow_or_wrong_setting_says_so_and_the_page_goes_on(page: Page, address: str) -> None:
    controls = Controls(opened(page, address))
    controls.set("weights", "int5")
    assert (page.text_content("#problem-0") or "").count("unknown format 'int5'") == 1
    controls.set("weights", "int8")
    assert page.text_content("#problem-0") == ""
    controls.set("context", "99999999999")
    assert "context" in (page.text_content("#problem-0") or "")


HOSTILE = {
    "x.gguf": b"GGUF" + b"\xff" * 500,
    "x.safetensors": b"\xff" * 64,
    "config.json": b'{"model_type": "<img src=x onerror=alert(1)>"',
    "x.pickle": b"\x80\x04.",
}


def test_a_hostile_file_is_refused_with_its_message(
    page: Page, address: str, until: Callable[..., None]
) -> None:
    opened(page, address)
    for name, content in HOSTILE.items():
        dropped(page, name, content)
        until(page, "name => document.getElementById('file-problem').textContent.includes(name)", arg=name)
    assert (
        page.locator("#verdict-0").text_content()
        == "smolvlm2-256m on nexys-video: fits, all of it resident in ddr3"
    )


def dropped(page: Page, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name));
            const how = { dataTransfer: data, cancelable: true, bubbles: true };
            document.dispatchEvent(new DragEvent("drop", how));
        }""",
        [name, list(content)],
    )


def test_only_the_header_of_a_file_leaves_the_browser(
    page: Page, address: str, tiny_llama: Path, tiny_gguf: Path
) -> None:
    opened(page, address)
    whole = (tiny_llama / "model.safetensors").read_bytes()
    ends = {
        tiny_llama / "model.safetensors": 8 + int.from_bytes(whole[:8], "little"),
        tiny_gguf: min(tensor.offset for tensor in read_gguf(tiny_gguf).tensors.values()),
    }
    for path, end in ends.items():
        with page.expect_request("**/api/upload?**") as sent:
            page.get_by_label("Or drop a config.json").set_input_files(path)
        page.wait_for_selector(IDLE)
        body = sent.value.post_data_buffer
        assert body is not None
        # a GGUF header is padded to its alignment before the data begin
        assert end - 32 < len(body) <= end < path.stat().st_size
        assert path.stem in (page.text_content("#verdict-0") or "")


def test_both_themes_are_readable(page: Page, address: str, until: Callable[..., None]) -> None:
    drawn(opened(page, address), "memory-0")
    seen = {}
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        until(
            page,
            "ink => document.querySelector('#memory-0 .xtick text')?.style.fill === ink",
            arg={"light": "rgb(26, 26, 26)", "dark": "rgb(232, 232, 232)"}[theme],
        )
        seen[theme] = page.evaluate(CONTRAST)
    assert min(seen["light"].values()) > 4.5, seen["light"]
    assert min(seen["dark"].values()) > 4.5, seen["dark"]


# The contrast (WCAG 2.2, 1.4.3) of each kind of text with what is behind it.
CONTRAST = """() => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (rgb) => rgb.map((c) => linear(c / 255))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const found = numbers(getComputedStyle(node).backgroundColor);
            if (found.length === 3 || found[3] > 0) return found.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const of = (selector) => {
        const node = document.querySelector(selector);
        const [a, b] = [light(numbers(getComputedStyle(node).color).slice(0, 3)), light(behind(node))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const kinds = ["#verdict-0", ".help", "label", "legend", "#facts td", "#facts th", "input", "button",
        ".tiles dt"];
    return Object.fromEntries(kinds.map((kind) => [kind, of(kind)]));
}"""


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, address)
    for figure in ("memory-0", "roofline-0", "timeline-0"):
        drawn(page, figure)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_label("Weights", exact=True).fill("mxfp4")
    page.wait_for_selector(IDLE)
    assert (
        page.locator("#verdict-0").evaluate("v => v.getBoundingClientRect().bottom") < 740
    )  # it stays in view


def test_an_address_with_nonsense_is_as_if_it_were_not_there(page: Page, address: str) -> None:
    opened(page, address, "?model=nope&machine=x&context=abc&batch=1e999&ghost=1")
    assert page.url.removeprefix(address) == "?model=smolvlm2-256m&machine=nexys-video"
    assert "smolvlm2-256m" in (page.text_content("#verdict-0") or "")


def test_what_was_typed_meanwhile_is_what_stands_in_the_end(page: Page, address: str) -> None:
    opened(page, address)
    page.get_by_label("Context, tokens").press_sequentially("7", delay=5)  # 1024, then 10247
    page.get_by_label("Weights", exact=True).fill("int5")
    page.get_by_label("Weights", exact=True).fill("mxfp4")
    page.wait_for_selector(IDLE)
    assert "--weights mxfp4 --context" in (page.text_content("#commands-0") or "")
    assert page.text_content("#problem-0") == ""
    assert figures(page)["simulation.strategy"] == "resident"


def test_the_keyboard_is_enough(page: Page, address: str, until: Callable[..., None]) -> None:
    opened(page, address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", reached[-1]
        if reached[-1] == "weights":
            page.keyboard.press("Control+A")
            page.keyboard.type("mxfp4")
        if reached[-1] == "strategy":
            page.keyboard.press("ArrowDown")
    page.wait_for_selector(IDLE)
    order = [
        "compare",
        "model",
        "file",
        "machine",
        "weights",
        "kv",
        "keep-add",
        "context",
        "batch",
        "strategy",
    ]
    assert [name for name in reached if name in order] == order
    until(page, "document.querySelector('#commands-0').textContent.includes('mxfp4')")
    assert "strategy=resident" in page.url
    assert page.locator("#verdict-0").get_attribute("aria-live") == "polite"


def test_every_control_has_a_name_for_a_screen_reader(page: Page, address: str) -> None:
    drawn(opened(page, address), "timeline-0")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, summary, [role=img]")]
            .filter((c) => !c.closest(".js-plotly-plot .plotly") && !c.labels?.length)
            .filter((c) => !c.getAttribute("aria-label") && !c.textContent.trim())
            .map((c) => c.outerHTML)"""
    )
    assert nameless == []


def test_a_run_is_followed_as_it_goes(page: Page, address: str, runtime: Path) -> None:
    publisher = Publisher(runtime / "tierline")
    now = RunNow(
        run=publisher.run, model="<b>tiny</b>", stage="answering", updated_s=time.time(), elapsed_s=1.0,
        tokens=3, most_tokens=11, tokens_per_s=2.5, predicted_tokens_per_s=2.75, stall_s=0.25,
        stall_fraction=0.2, tiers=(TierNow("weights", 7 * 2**20, 11 * 2**20),),
        links=(LinkNow("disk", 13 * 2**20, 1.7e9, 2.5e9),),
    )  # fmt: skip
    publisher.publish(now)
    opened(page, address)
    panel = page.get_by_role("article")
    panel.wait_for()
    assert "<b>tiny</b>: answering, 3 of 11 tokens" in panel.inner_text()
    assert "1.7 GB/s of 2.5 GB/s" in panel.inner_text()
    from dataclasses import replace

    publisher.publish(replace(now, tokens=11, stage="done", updated_s=time.time() + 1))
    page.wait_for_selector("article[data-stage=done][data-tokens='11']")
