"""`tierline run --live` on a terminal, for real: what it draws, and what it leaves for the page."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def left(folder: Path) -> dict[str, Any]:
    """Return what the one run of `folder` said last."""
    (path,) = (folder / "tierline").glob("run-*.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def live(options: list[str], folder: Path, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run with --live, `said` on stdin, what it publishes in `folder`."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    command = [sys.executable, "-m", "tierline", "run", *options, "--live"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, input=said)


@pytest.mark.slow
def test_a_turn_of_a_session_is_live_too(tiny_llama: Path, tmp_path: Path) -> None:
    turn = [str(tiny_llama), PROMPT, "--raw", "--new", "7", "--session", str(tmp_path / "kept"), "--json"]
    for _ in range(2):
        done = live(turn, tmp_path)
        assert done.returncode == 0, done.stderr
        run = left(tmp_path)
        assert (run["stage"], run["tokens"], run["most_tokens"]) == ("done", 7, 7)
        (tmp_path / "tierline" / f"run-{run['run']}.json").unlink()
    assert "need not be computed again" in done.stderr


@pytest.mark.slow
def test_a_chat_is_watched_turn_by_turn_and_waits_between(tiny_llama: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    command = [sys.executable, "-m", "tierline", "run", str(model), "--chat", "--new", "5", "--live"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as chat:  # fmt: skip
        assert chat.stdin is not None
        for line in (PROMPT, "t7 t11"):
            chat.stdin.write(line + "\n")
            chat.stdin.flush()
            assert chat.stdout is not None
            assert chat.stdout.readline()
            run = left(tmp_path)
            assert (run["stage"], run["tokens"], run["run"]) == ("waiting", 5, str(chat.pid))
        chat.stdin.close()
        assert chat.wait(60) == 0
    assert left(tmp_path)["stage"] == "done"


def test_prompts_are_live_all_together(tiny_llama: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "t{i} t{i + 2}"}}\n' for i in (3, 7, 11)))
    options = [str(tiny_llama), "--prompts", str(prompts), "-o", str(tmp_path / "out.jsonl"), "--raw"]
    done = live([*options, "--new", "9", "--batch", "2", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    run, printed = left(tmp_path), json.loads(done.stdout)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert run["tokens"] == sum(len(json.loads(line)["token_ids"]) for line in lines) > 3
    assert (run["stage"], run["most_tokens"]) == ("done", 27)
    step = next(row for row in printed["rows"] if row["quantity"] == "passes")
    assert run["predicted_tokens_per_s"] == pytest.approx(2 * step["planned"])
