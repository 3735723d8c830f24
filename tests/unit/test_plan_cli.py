"""`tierline plan` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.report.tables import shown

DEMO = "smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --kv mxfp8:block=8 --context 1024"


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments.split()])
    out, err = capsys.readouterr()
    code = stopped.value.code
    return code if isinstance(code, int) else 0, out, err


def as_json(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, out, _ = run(f"{arguments} --json", capsys)
    assert code == 0
    return json.loads(out)  # type: ignore[no-any-return]


def test_the_text_shows_footprint_tiers_reads_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(DEMO, capsys)
    assert (code, err) == (0, "")
    for part in ("fits", "97,237,152", "512.0 MiB", "151,412,976", "link:ddr3", "6.07"):
        assert part in out


def test_json_has_the_keys_of_the_surface(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(DEMO, capsys)
    assert found["strategy"] == "resident"
    decode = found["phases"][-1]
    keys = "name passes weight_read_bytes weight_read_bytes_per_pass kv_read_bytes kv_write_bytes "
    keys += "activation_traffic_bytes flop time_s bound tokens_per_s rate_kind links"
    assert set(keys.split()) <= set(decode)
    assert decode["kv_read_bytes"] == 128 * 1024 * 12_960
    assert {"time_to_first_token_s", "actions_per_s"} <= set(found)


def test_sensitivity_is_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"{DEMO} --sensitivity --sensitivity-format bf16", capsys)
    vision = next(row for row in found["sensitivity"] if row.get("component") == "vision")
    assert (vision["format"], vision["added_bytes"]) == ("bf16", 2 * 86_433_024 - 97_237_152)
    assert vision["added_read_bytes_per_pass"] == 0  # a decode step does not read it
    assert vision["tokens_per_s"] == found["phases"][-1]["tokens_per_s"]
    _, out, _ = run(f"{DEMO} --sensitivity --sensitivity-format bf16", capsys)
    assert "+75,628,896" in out


def test_chunks_pages_and_averages_change_what_they_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = as_json(DEMO, capsys)
    other = as_json(f"{DEMO} --prefill-chunk 100 --average-decode --kv-block-tokens 1000", capsys)
    before, after = ({p["name"]: p for p in found["phases"]} for found in (plain, other))
    assert (before["prefill"]["passes"], after["prefill"]["passes"]) == (1, 9)
    assert after["prefill"]["kv_read_bytes"] == 12_960 * sum(range(100, 900, 100))
    assert after["decode"]["kv_read_bytes"] == 12_960 * sum(range(897, 1025))
    assert other["footprint"]["kv_cache_bytes"] == 2000 * 12_960
    shares = tmp_path / "shares.json"
    shares.write_text("[1, 2, -3]")
    assert "shares.json" in run(f"{DEMO} --expert-shares {shares}", capsys)[2]


def test_impossible_is_an_answer_and_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"{DEMO} --context 4000000", capsys)
    assert (found["strategy"], found["fits"]) == ("impossible", False)
    assert found["remedies"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing-here --on nexys-video", "nothing-here"),
        ("smolvlm2-256m --on nexys-video --weights mxfp9", "mxfp9"),
        ("smolvlm2-256m --on nexys-video --activation-policy all", "layer-io"),
        ("smolvlm2-256m --on nexys-video --context 9 --prompt-tokens 5 --new 5", "--context 9"),
        ("smolvlm2-256m --on nexys-video --keep nose=bf16", "nose"),
        ("smolvlm2-256m --on nexys-video --images -1", "--images"),
        ("smolvlm2-256m --on nexys-video --prefill-chunk 0", "--prefill-chunk 0"),
        ("smolvlm2-256m --on nexys-video --kv-block-tokens 0", "--kv-block-tokens 0"),
        ("smolvlm2-256m --on nexys-video --include some", "layer-matrices"),
    ],
)
def test_bad_options_say_what_is_wrong(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_names_from_files_cannot_move_the_cursor() -> None:
    assert shown("a\x1b[2Jb\n[red]") == "a\\x1b[2Jb\\n[red]"


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tierline.cli.main import main\n"
        f"try: main(['plan', *'{DEMO} --json'.split()])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
