"""`tierline run --auto`: the budget that is free, and the same answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tierline.machines.memory import read_memory


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tierline", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_auto_takes_what_is_free_and_answers_the_same(tiny_llama: Path) -> None:
    words = ["t3 t141 t59", "--raw", "--new", "4", "--json", "--lean"]
    free = read_memory().free_bytes
    assert free is not None
    chosen = run(tiny_llama, *words, "--auto")
    assert chosen.returncode == 0, chosen.stderr
    document = json.loads(chosen.stdout)
    assert free / 2 < document["allowed_bytes"] < free * 2
    assert document["weights_streamed_bytes"] == 0
    small = run(tiny_llama, *words, "--resident", "400KiB")
    assert json.loads(small.stdout)["weights_streamed_bytes"] > 0
    assert document["token_ids"] == json.loads(small.stdout)["token_ids"]


def test_auto_and_a_budget_are_refused(tiny_llama: Path) -> None:
    refused = run(tiny_llama, "hi", "--auto", "--memory", "1GiB")
    assert refused.returncode == 2
    assert "--auto: chooses the budget" in refused.stderr
