"""Several tokens per pass: guessed ones that are checked, and a cache kept narrow or on disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tierline.errors import BudgetError, InputError
from tierline.run.kv.choice import KvChoice
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama

pytestmark = pytest.mark.usefixtures("brief_samples")
PROMPT = "t3 t141 t59 t26 t5 t3 t141 t59 t26 t5 t3 t141 t59"


def nothing(*_: object) -> None:
    """Ignore progress and text."""


def run(path: Path, request: Request, *, kv: KvChoice | None = None, memory: int | None = None) -> RunReport:
    with Session(open_source(path), resident=None, memory=memory, kv=kv) as opened:
        return opened.answer(request, progress=nothing, emit=nothing)


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in fp32 that soon says the same thing again."""
    return write_llama(tmp_path_factory.mktemp("fp32"), dtype="float32", initializer_range=0.05)


def test_checked_guesses_give_the_greedy_answer_in_fewer_passes(repeating: Path) -> None:
    greedy = run(repeating, Request(PROMPT, new=40, raw=True))
    guessed = run(repeating, Request(PROMPT, new=40, raw=True, speculate=4))
    assert guessed.token_ids == greedy.token_ids
    assert greedy.tokens_per_pass == 1
    assert greedy.closest_choice is None
    assert guessed.tokens_per_pass is not None
    assert 1.5 < guessed.tokens_per_pass <= 5
    assert guessed.closest_choice is not None
    assert {"tokens per pass", "decode rate"} <= {row.quantity for row in guessed.rows if row.planned is None}


def test_in_bf16_a_divergence_is_a_near_tie_whose_margin_is_reported(tmp_path: Path) -> None:
    for seed in range(3):
        path = write_llama(tmp_path / str(seed), seed=seed, initializer_range=0.05)
        greedy = run(path, Request(PROMPT, new=48, raw=True))
        with Session(open_source(path), resident=None, memory=None) as opened:
            request = Request(PROMPT, new=48, raw=True, speculate=7)
            guessed = opened.answer(request, progress=nothing, emit=nothing)
            margins = opened.partial.margins
        assert margins is not None
        assert guessed.closest_choice is not None
        assert guessed.closest_choice[1] == min(margins.of(i) for i in range(len(guessed.token_ids)))
        pairs = zip(greedy.token_ids, guessed.token_ids, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if first is not None:
            assert margins.of(first) <= 2**-5, "bf16 has eight bits: no wider gap rounds away"


def test_guesses_that_are_sampled_from_are_reported_too(repeating: Path) -> None:
    report = run(repeating, Request(PROMPT, new=12, raw=True, temperature=0.8, seed=5, speculate=3))
    assert report.tokens_per_pass is not None
    assert report.tokens_per_pass >= 1
    assert report.closest_choice is None


@pytest.mark.parametrize("narrow", [False, True])
def test_a_cache_on_disk_is_planned_and_read(tiny_llama: Path, tmp_path: Path, narrow: bool) -> None:
    kv = KvChoice("int8:channel" if narrow else None, tmp_path)
    prompt = " ".join(f"t{i % 90 + 3}" for i in range(300))
    in_memory = run(tiny_llama, Request(prompt, new=20, raw=True))
    on_disk = run(tiny_llama, Request(prompt, new=20, raw=True), kv=kv)
    if not narrow:
        assert on_disk.token_ids == in_memory.token_ids
    planned = on_disk.prediction.read_bytes - in_memory.prediction.read_bytes
    assert on_disk.read_bytes_per_token is not None
    assert in_memory.read_bytes_per_token is not None
    read = on_disk.read_bytes_per_token - in_memory.read_bytes_per_token
    assert planned > 0
    assert read == pytest.approx(planned, rel=0.07)  # whole blocks of rows, in the middle of the answer
    assert not list(tmp_path.iterdir())


def test_a_cache_on_disk_takes_less_memory(tiny_llama: Path, tmp_path: Path) -> None:
    request = Request(" ".join(f"t{i % 90 + 3}" for i in range(360)), new=16, raw=True)
    taken = []
    for kv in (None, KvChoice(folder=tmp_path)):
        with pytest.raises(BudgetError) as refused:
            run(tiny_llama, request, kv=kv, memory=2**20)
        taken.append(float(str(refused.value).partition("the cache of this run ")[2].split()[0]))
    assert taken[1] < taken[0]


def test_the_command_takes_them_all(tiny_llama: Path, tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-m",
        "tierline",
        "run",
        str(tiny_llama),
        PROMPT,
        "--raw",
        "--new",
        "9",
        "--json",
    ]
    options = ["--speculate", "3", "--kv", "int8", "--kv-offload"]
    done = subprocess.run(
        [*program, *options], capture_output=True, text=True, check=True,
        env={"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout)["tokens_per_pass"] >= 1
    refused = subprocess.run([*program, "--kv", "int3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--kv int8" in refused.stderr


def test_a_seed_and_drafts_have_their_limits() -> None:
    with pytest.raises(InputError, match="--speculate 65"):
        Request("", speculate=65)
    assert torch.get_default_dtype() == torch.float32
