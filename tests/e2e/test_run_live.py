"""`tierline run --live` on a terminal, for real: what it draws, and what it leaves for the page."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROMPT = "t3 t141 t59"


def on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run `command` with a terminal for its output; return its code and all that it wrote."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += (some := os.read(ours, 2**16))
            except OSError:  # the terminal is gone with its last user
                break
            if not some:
                break
        os.close(ours)
        return process.wait(120), said.decode("utf-8", "replace")


def test_a_live_run_draws_its_meters_and_can_be_followed(tiny_llama: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "COLUMNS": "120"}
    command = [sys.executable, "-m", "tierline", "run", str(tiny_llama), PROMPT, "--raw", "--new", "24"]
    code, said = on_a_terminal([*command, "--resident", "400KiB", "--live"], environment)
    assert code == 0, said
    for words in ("dram: weights", "of 400.0 KiB", "link: disk", "24 of 24 tokens", "compute waits"):
        assert words in said, words
    (left,) = (tmp_path / "tierline").glob("run-*.json")
    run = json.loads(left.read_text(encoding="utf-8"))
    assert (run["stage"], run["tokens"], run["most_tokens"]) == ("done", 24, 24)
    assert run["links"][0]["read_bytes"] > 0
    held = next(tier for tier in run["tiers"] if tier["name"] == "dram: weights")
    assert 0 < held["used_bytes"] <= held["allowed_bytes"] == 400 * 1024


@pytest.mark.parametrize("other", [["--chat"], ["--session", "x.json"]])
def test_live_is_of_one_answer(tiny_llama: Path, other: list[str]) -> None:
    command = [sys.executable, "-m", "tierline", "run", str(tiny_llama), *other, "--live"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, f"leave out {other[0]}" in done.stderr) == (2, True), done.stderr
