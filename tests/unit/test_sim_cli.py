"""`tierline simulate` as a user meets it."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.trace import TraceEvent, chrome_trace

BOARD = "smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --phase decode --new 7"
SHORT = f"{BOARD} --strategy layer-swap --capacity 151MB"


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", *arguments.split()])
    out, err = capsys.readouterr()
    code = stopped.value.code
    return code if isinstance(code, int) else 0, out, err


def as_json(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, out, err = run(f"{arguments} --json", capsys)
    assert (code, err) == (0, "")
    return json.loads(out)  # type: ignore[no-any-return]


def test_fifo_and_pin_spread_print_the_contrast(capsys: pytest.CaptureFixture[str]) -> None:
    code, fifo, err = run(f"{SHORT} --policy fifo", capsys)
    assert (code, err) == (0, "")
    assert "0.24 tok/s, bound by link:usb2" in fifo
    assert "0 hits" in fifo
    assert f"{7 * 151_412_976:,}" in fifo
    code, spread, err = run(f"{SHORT} --policy pin-spread", capsys)
    assert (code, err) == (0, "")
    assert "0 evictions" in spread
    assert "2.04 tok/s" in spread


def test_json_has_the_keys_of_the_surface(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"{SHORT} --policy fifo --want 5", capsys)
    keys = "strategy policy tokens_per_s_steady bound cold_loads evictions reloads links overlap_fraction "
    assert set(f"{keys} stall_s_per_pass".split()) <= set(found)
    assert {"name", "traffic_bytes", "busy_fraction", "achieved_bytes_per_s"} <= set(found["links"][0])
    assert (found["strategy"], found["policy"], found["bound"]) == ("layer-swap", "fifo", "link:usb2")
    assert found["links"][1]["traffic_bytes"] == 7 * 151_412_976
    assert found["stall_s_per_pass"] == pytest.approx(sum(found["stall_s"].values()) / 7)  # all passes alike
    decode = found["phases"][0]
    assert decode["first_pass_s"] > 0
    assert decode["p50_pass_s"] <= decode["p90_pass_s"] <= decode["p99_pass_s"]
    assert found["break_even"]["wanted_tokens_per_s"] == 5
    assert found["energy_j"] is None


def test_without_options_it_simulates_what_the_planner_thinks_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = as_json("smollm2-135m --on nexys-video --new 3 --prompt-tokens 5", capsys)
    assert found["strategy"] == "resident"
    assert found["reloads"] == 0
    assert [p["name"] for p in found["phases"]] == ["prefill", "decode"]
    assert found["time_to_first_token_s"] == pytest.approx(found["phases"][0]["time_s"])


def test_a_trace_is_in_the_trace_event_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    found = as_json(f"{BOARD} --strategy kv-offload --trace {path}", capsys)
    document = json.loads(path.read_text())
    check_trace(document)
    rows = {e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    assert {"compute", "link:usb2", "slot 0", "slot 1"} <= rows
    moved = [e for e in document["traceEvents"] if e.get("cat") in ("read", "load", "write")]
    assert sum(e["args"]["traffic_bytes"] for e in moved) == found["links"][1]["traffic_bytes"]
    spans = [e for e in document["traceEvents"] if e["ph"] == "X"]
    ends = max(e["ts"] + e["dur"] for e in spans if e["tid"] == row_of(document, "compute"))
    assert ends == pytest.approx(found["time_s"] * 1e6)
    for row in {e["tid"] for e in spans}:
        check_row([e for e in spans if e["tid"] == row])


def check_trace(document: dict[str, Any]) -> None:
    """The parts of the Trace Event Format that Perfetto's JSON importer reads."""
    assert set(document) == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        assert isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert isinstance(event["cat"], str)
            assert isinstance(event["ts"], float)
            assert event["ts"] >= 0
            assert event["dur"] >= 0
        else:
            assert event["name"] in ("process_name", "thread_name")


def check_row(spans: list[dict[str, Any]]) -> None:
    """Stretches of one row never overlap: otherwise the viewer nests them."""
    for before, after in pairwise(sorted(spans, key=lambda e: (e["ts"], e["dur"]))):
        assert after["ts"] >= before["ts"] + before["dur"] - 1e-3


def row_of(document: dict[str, Any], name: str) -> int:
    named = [e for e in document["traceEvents"] if e["ph"] == "M" and e["args"]["name"] == name]
    return int(named[0]["tid"])


def test_chrome_traces_name_their_rows_and_count_microseconds() -> None:
    events = [
        TraceEvent("disk", "read", "layer 0", 0.5, 0.75, 17),
        TraceEvent("compute", "compute", "layer 0", 0.75, 1.0),
        TraceEvent("disk", "read", "layer 1", 1.0, 1.5, 19),
    ]
    document = chrome_trace(events, "a model")
    check_trace(document)
    listed: Any = document["traceEvents"]
    assert [(e["tid"], e["args"]["name"]) for e in listed if e["ph"] == "M"] == [
        (0, "a model"),
        (1, "disk"),
        (2, "compute"),
    ]
    first = next(e for e in listed if e["ph"] == "X")
    assert (first["ts"], first["dur"], first["tid"], first["args"]["traffic_bytes"]) == (
        500_000,
        250_000,
        1,
        17,
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_drawn(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot.{suffix}"
    assert run(f"{SHORT} --policy pin-spread --plot {path}", capsys)[0] == 0
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--strategy swap", "layer-swap"),
        ("--policy mru", "pin-by-value"),
        ("--granularity row", "tensor"),
        ("--capacity 151mb", "MB"),
        ("--prefetch-depth 0", "--prefetch-depth 0"),
        ("--reads-in-flight 0", "--reads-in-flight 0"),
        ("--phase sing", "decode"),
        ("--phase-strategy prefill", "PHASE=STRATEGY"),
        ("--speculate 4 --accept 2", "--accept"),
        ("--speculate 5000", "--speculate 5000"),
        ("--accept 0.7", "without --speculate"),
        ("--instructions streamed", "without --program"),
        ("--granularity tile --tile 1B --new 128", "larger tiles"),
        ("--want -1", "--want"),
        ("--phase-strategy sing=tiered", "prefill"),
        ("--strategy tiered --policy fifo", "--strategy layer-swap"),
        ("--strategy resident --policy pin-spread", "--strategy layer-swap"),
        ("--strategy tiered --capacity 1MB", "--granularity tile"),
        ("--strategy resident --capacity 1MB", "capacity"),
        ("--plot plot.nonsense", "nonsense"),
    ],
)
def test_bad_options_say_what_is_wrong(
    arguments: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(f"{BOARD.removesuffix(' --phase decode --new 7')} --new 7 {arguments}", capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_simulating_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tierline.cli.main import main\n"
        "try: main(['simulate', 'smollm2-135m', '--on', 'nexys-video', '--new', '3', '--json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
