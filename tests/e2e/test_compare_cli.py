"""`tierline compare` and `--pace` as a user calls them, on a link so slow that compute does not matter."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PROMPT = "t3 t141 t59"
BOARD = """
[tiers.ddr]
capacity = { value = "1GiB", kind = "assumed", source = "test" }
peak = { value = "1GB/s", kind = "assumed", source = "test" }
[tiers.host]
capacity = { value = "8GiB", kind = "assumed", source = "test" }
[links.wire]
from = "host"
to = "ddr"
sustained = { value = "600kB/s", kind = "assumed", source = "test" }
latency = { value = "2ms", kind = "assumed", source = "test" }
"""


def tierline(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tierline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("machines") / "board.toml"
    path.write_text(BOARD, encoding="utf-8")
    return path


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["quantity"]: row for row in document["rows"]}


@cache
def smallest(path: Path) -> str:
    """Return the least budget in which the model can be streamed, as the program names it."""
    refused = tierline("compare", path, PROMPT, "--raw", "--resident", "1KiB").stderr
    found = re.search(r"Give --resident (\d+B)", refused)
    assert found, refused
    return found[1]


@pytest.mark.parametrize("kind", ["tiny_llama", pytest.param("tiny_gguf", marks=pytest.mark.slow)])
def test_a_paced_run_is_as_fast_as_planned_and_simulated(
    kind: str, board: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, trace = request.getfixturevalue(kind), tmp_path / "trace.json"
    done = tierline(
        "compare", path, PROMPT, "--raw", "--new", "6", "--resident", smallest(path),
        "--pace", board, "--trace", trace, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["paced"] == {
        "machine": "board", "link": "wire", "bytes_per_s": 6e5, "latency_s": 0.002,
    }  # fmt: skip
    assert document["bound"] == "link:wire"
    rows = rows_of(document)
    for quantity, allowed in (("decode rate", 0.05), ("link:wire bytes per token", 0.01)):
        assert abs(rows[quantity]["error_fraction"]) < allowed, rows[quantity]
        assert abs(rows[quantity]["simulated_error_fraction"]) < allowed, rows[quantity]
    assert abs(rows["link:wire busy share"]["simulated_error_fraction"]) < 0.05
    assert rows["stall share"]["simulated"] == pytest.approx(rows["stall share"]["planned"], abs=0.1)
    assert 0 < rows["stall share"]["measured"] < 1
    check_overlay(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])


def test_three_tiers_are_predicted_link_by_link(tiny_llama: Path, board: Path) -> None:
    """A copy stands for the wire; the disk before it is this computer's, so the wire decides."""
    weights_bytes = (tiny_llama / "model.safetensors").stat().st_size
    done = tierline(
        "compare", tiny_llama, PROMPT, "--raw", "--new", "6", "--resident", smallest(tiny_llama),
        "--pace", board, "--host", f"{weights_bytes // 2}B", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["bound"] == "link:wire"
    rows = rows_of(document)
    for quantity, allowed in (
        ("decode rate", 0.05), ("link:wire bytes per token", 0.01), ("link:disk bytes per token", 0.1),
    ):  # fmt: skip
        assert abs(rows[quantity]["error_fraction"]) < allowed, rows[quantity]
        assert abs(rows[quantity]["simulated_error_fraction"]) < allowed, rows[quantity]
    wire, disk = (rows[f"link:{name} bytes per token"]["measured"] for name in ("wire", "disk"))
    assert 0 < disk < wire  # the host keeps what its slots leave
    assert "stands for board:wire" in tierline(
        "run", tiny_llama, PROMPT, "--raw", "--new", "2", "--pace", board, "--host", f"{weights_bytes // 2}B",
        "--resident", smallest(tiny_llama),
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--host", "1MiB"), "give it with --pace"),
        (("--host", "1MiB", "--pace", "nexys-video", "--stripe", "x"), "exclude each other"),
        (("--host", "1MiB", "--pace", "rtx-4090", "--resident", "400KiB"), "copies"),
    ],
)
def test_a_host_that_cannot_be_is_refused(tiny_llama: Path, arguments: tuple[str, ...], why: str) -> None:
    done = tierline("run", tiny_llama, PROMPT, *arguments)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr


def check_overlay(events: list[dict[str, Any]]) -> None:
    """Both processes are there, on one axis of time, and read about the same bytes."""
    names = {e["pid"]: e["args"]["name"].split()[0] for e in events if e["name"] == "process_name"}
    assert names == {1: "simulated", 2: "measured"}
    read = {
        pid: sum(e["args"]["traffic_bytes"] for e in events if e["pid"] == pid and e.get("cat") == "read")
        for pid in names
    }
    assert read[1] == pytest.approx(read[2], rel=0.15)
    ends = {pid: max(e["ts"] + e["dur"] for e in events if e["pid"] == pid and "dur" in e) for pid in names}
    assert ends[1] == pytest.approx(ends[2], rel=0.1)
    assert min(e["ts"] for e in events if "ts" in e) >= 0


def test_the_table_has_every_column_and_says_that_it_is_paced(tiny_llama: Path, board: Path) -> None:
    done = tierline(
        "compare",
        tiny_llama,
        PROMPT,
        "--raw",
        "--new",
        "3",
        "--resident",
        "400KiB",
        "--pace",
        f"{board}:wire",
    )
    assert done.returncode == 0, done.stderr
    for word in (
        "planned",
        "simulated",
        "measured",
        "first token rate",
        "peak memory",
        "paced: reads slowed",
    ):
        assert word in done.stdout, word


def test_a_resident_run_compares_without_a_link(tiny_llama: Path) -> None:
    done = tierline("compare", tiny_llama, PROMPT, "--raw", "--new", "4", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = rows_of(document)
    assert document["paced"] is None
    assert (
        rows["link:disk bytes per token"]["measured"] == rows["link:disk bytes per token"]["simulated"] == 0
    )
    assert rows["stall share"]["measured"] == 0
    assert rows["decode rate"]["simulated"] == pytest.approx(rows["decode rate"]["planned"])


def test_run_says_in_json_that_it_was_paced(tiny_llama: Path, board: Path) -> None:
    done = tierline(
        "run", tiny_llama, PROMPT, "--raw", "--new", "4", "--resident", "400KiB", "--pace", board, "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["paced"]["link"] == "wire"
    rows = rows_of(document)
    assert rows["wire link rate"]["measured"] == pytest.approx(6e5, rel=0.05)
    assert abs(rows["decode rate"]["error_fraction"]) < 0.05


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_an_unknown_pace_is_one_message_at_once(verb: str, tiny_llama: Path) -> None:
    done = tierline(verb, tiny_llama, PROMPT, "--pace", "nexys-video:pcie", timeout_s=20)
    assert done.returncode == 2
    assert "no link 'pcie'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_paced_copies_are_twice_as_fast_as_one(tiny_llama: Path, board: Path, tmp_path: Path) -> None:
    copy = shutil.copy(tiny_llama / "model.safetensors", tmp_path / "copy.safetensors")
    refused = tierline("compare", tiny_llama, PROMPT, "--raw", "--resident", "1KiB", "--stripe", copy).stderr
    budget = refused.split("Give --resident ")[1].split()[0]
    common = ("compare", tiny_llama, PROMPT, "--raw", "--new", "6", "--pace", board, "--resident", budget)
    rates = []
    for stripes in ((), ("--stripe", copy)):
        done = tierline(*common, *stripes, "--json")
        assert done.returncode == 0, done.stderr
        rows = rows_of(json.loads(done.stdout))
        assert abs(rows["decode rate"]["error_fraction"]) < 0.1
        assert abs(rows["decode rate"]["simulated_error_fraction"]) < 0.1
        rates.append((rows["decode rate"]["measured"], rows["link:wire bytes per token"]["measured"]))
    # the second pins less of the same budget, since more tiles are under way: compare bytes per second
    (one, bytes_one), (two, bytes_two) = rates
    assert two * bytes_two == pytest.approx(2 * one * bytes_one, rel=0.1)


def test_what_is_no_copy_is_refused_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes((tiny_llama / "model.safetensors").read_bytes()[:-1])
    done = tierline("run", tiny_llama, PROMPT, "--stripe", wrong)
    assert done.returncode == 2
    assert "not a copy" in done.stderr
