"""Runs of tiny real checkpoints: the same answer for every split of pinned and streamed."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GgufConfig

from tierline.errors import BudgetError, FaultError, InputError
from tierline.run.ledger import Ledger
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source

pytestmark = pytest.mark.usefixtures("brief_samples")
PROMPT = "t3 t141 t59 t26 t5"
REQUEST = Request(PROMPT, new=24, raw=True)


def nothing(*_: object) -> None:
    """Ignore progress and text."""


@contextmanager
def session(path: Path, *, resident: int | None = None, memory: int | None = None) -> Iterator[Session]:
    with Session(open_source(path), resident=resident, memory=memory) as opened:
        yield opened


def run(path: Path, resident: int | None = None) -> RunReport:
    with session(path, resident=resident) as opened:
        return opened.answer(REQUEST, progress=nothing, emit=nothing)


@cache
def smallest(path: Path) -> int:
    """Return the smallest workable --resident, as the refusal of 1 byte names it."""
    with session(path, resident=1) as opened, pytest.raises(BudgetError) as refused:
        opened.answer(REQUEST, progress=nothing, emit=nothing)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def logits(path: Path, ids: torch.Tensor, resident: int | None) -> torch.Tensor:
    with session(path, resident=resident) as opened:
        opened.answer(REQUEST, progress=nothing, emit=nothing)
        with torch.inference_mode():
            found: torch.Tensor = opened.engine.model(input_ids=ids).logits
        return found


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gguf"])
def test_logits_equal_resident_ones_bit_by_bit(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    ids = torch.tensor([[3, 141, 59, 26, 5, 358, 979, 323, 846]])
    resident = logits(path, ids, None)
    assert not resident.isnan().any()
    assert torch.equal(logits(path, ids, smallest(path)), resident)


@pytest.fixture(scope="module")
def whole(tiny_llama: Path) -> RunReport:
    """A run with everything pinned."""
    return run(tiny_llama)


@given(share=st.floats(0, 1))
@settings(max_examples=4)
def test_any_budget_gives_the_same_tokens_within_it(tiny_llama: Path, whole: RunReport, share: float) -> None:
    least = smallest(tiny_llama)
    budget = least + int(share * (whole.weights_resident_peak_bytes - least))
    report = run(tiny_llama, budget)
    assert report.token_ids == whole.token_ids
    assert report.weights_resident_peak_bytes <= budget
    if report.weights_streamed_bytes:
        assert report.read_bytes_per_token == pytest.approx(report.prediction.read_bytes, rel=0.01, abs=512)


def test_one_byte_below_the_smallest_workable_budget_is_refused(tiny_llama: Path) -> None:
    least = smallest(tiny_llama)
    assert run(tiny_llama, least).weights_streamed_bytes > 0
    with pytest.raises(BudgetError, match=f"--resident {least}B"):
        run(tiny_llama, least - 1)


def test_bf16_equals_transformers(tiny_llama: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    ids = torch.tensor([[3, 141, 59, 26, 5]])
    with torch.inference_mode():
        theirs = reference(input_ids=ids).logits
    assert torch.equal(logits(tiny_llama, ids, None), theirs)


def test_gguf_equals_transformers_dequantized(tiny_gguf: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.parent, gguf_file=tiny_gguf.name, quantization_config=GgufConfig(dequantize=True)
    )
    ids = torch.tensor([[3, 141, 59, 26, 5]])
    with torch.inference_mode():
        theirs = reference(input_ids=ids).logits
    torch.testing.assert_close(logits(tiny_gguf, ids, None), theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs.argmax(-1), logits(tiny_gguf, ids, None).argmax(-1))


def test_the_ledger_refuses_what_the_budget_does_not_allow() -> None:
    ledger = Ledger(100)
    ledger.take(60, "the first")
    with pytest.raises(BudgetError, match=r"the second needs 41 B beside the 60 B .* 100 B are allowed"):
        ledger.take(41, "the second")
    ledger.give(60)
    ledger.take(100, "all of it")
    assert (ledger.held_bytes, ledger.peak_bytes) == (100, 100)


def test_closing_gives_threads_and_descriptors_back(tiny_llama: Path) -> None:
    least = smallest(tiny_llama)
    run(tiny_llama, least)
    before = threading.active_count(), open_descriptors()
    for _ in range(3):
        run(tiny_llama, least)
    assert (threading.active_count(), open_descriptors()) == before


def test_a_file_cut_during_the_run_ends_it_with_what_had_come(tiny_llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_llama.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    arrived: list[str] = []

    def cut(text: str) -> None:
        arrived.append(text)
        if len(arrived) == 4:
            with (copy / "model.safetensors").open("r+b") as file:
                file.truncate(4096)

    with session(copy, resident=smallest(tiny_llama)) as opened:
        with pytest.raises(FaultError, match=r"model\.safetensors: .* cut while in use"):
            opened.answer(REQUEST, progress=nothing, emit=cut)
        assert 0 < len(opened.partial.token_ids) < REQUEST.new


def test_sampling_is_the_same_for_the_same_seed(tiny_llama: Path) -> None:
    def sampled(seed: int) -> tuple[int, ...]:
        request = Request(PROMPT, new=24, raw=True, temperature=1.0, top_p=0.9, seed=seed)
        with session(tiny_llama) as opened:
            return opened.answer(request, progress=nothing, emit=nothing).token_ids

    assert sampled(1) == sampled(1) != sampled(2)


def test_memory_below_what_the_process_takes_is_refused(tiny_llama: Path) -> None:
    with (
        session(tiny_llama, memory=64 * 2**20) as opened,
        pytest.raises(BudgetError, match=r"--memory 64\.0 MiB .* Give --memory \d+MiB"),
    ):
        opened.answer(REQUEST, progress=nothing, emit=nothing)


def test_fewer_tokens_than_are_rehearsed_may_be_asked_for_within_a_memory(tiny_llama: Path) -> None:
    with session(tiny_llama, memory=4 * 2**30) as opened:
        report = opened.answer(Request("t3 t141", new=1, raw=True), progress=nothing, emit=nothing)
    assert len(report.token_ids) == 1


def test_saving_a_streamed_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with session(tiny_llama) as opened, pytest.raises(InputError, match="save_pretrained"):
        opened.engine.model.save_pretrained(tmp_path)


def test_a_read_error_names_tensor_file_and_offset_and_keeps_what_had_come(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, arrived = os.preadv, list[str]()

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if len(arrived) >= 3:
            raise OSError(errno.EIO, "Input/output error")
        return working(descriptor, buffers, offset)

    with session(tiny_llama, resident=smallest(tiny_llama)) as opened:
        monkeypatch.setattr(os, "preadv", failing)
        started_s = time.monotonic()
        with pytest.raises(
            FaultError, match=r"model\.safetensors: reading .* at offset [\d,]+ failed: Input/"
        ):
            opened.answer(REQUEST, progress=nothing, emit=arrived.append)
        assert time.monotonic() - started_s < 10
        assert 0 < len(opened.partial.token_ids) < REQUEST.new


def test_the_trace_holds_reads_waits_and_compute_in_order(tiny_llama: Path) -> None:
    with Session(
        open_source(tiny_llama), resident=smallest(tiny_llama), memory=None, keep_events=True
    ) as opened:
        report = opened.answer(REQUEST, progress=nothing, emit=nothing)
        events = opened.events
    assert {e.activity for e in events} == {"read", "wait", "compute"}
    assert all(0 <= e.start_s <= e.end_s for e in events)
    read = sum(e.traffic_bytes for e in events)
    steps = len(report.token_ids)
    assert report.read_bytes_per_token is not None
    assert read == pytest.approx(report.read_bytes_per_token * steps, rel=0.1)
    resources = {e.resource for e in events if e.activity == "read"}
    for resource in resources:  # a reader does one thing at a time
        own = sorted((e.start_s, e.end_s) for e in events if e.resource == resource)
        assert all(a[1] <= b[0] for a, b in pairwise(own))


def test_the_memory_that_a_refusal_names_is_enough(tiny_llama: Path) -> None:
    with session(tiny_llama, memory=2**20) as opened, pytest.raises(BudgetError) as refused:
        opened.answer(REQUEST, progress=nothing, emit=nothing)
    named = int(str(refused.value).rpartition("--memory ")[2].partition("MiB")[0]) * 2**20
    # What this test process holds may have grown a little since: libraries load on first use.
    with session(tiny_llama, memory=named + 16 * 2**20) as opened:
        report = opened.answer(REQUEST, progress=nothing, emit=nothing)
    assert report.measured_bytes <= named + 16 * 2**20


def test_more_tokens_than_the_model_was_made_for_are_refused(tiny_llama: Path) -> None:
    with (
        session(tiny_llama) as opened,
        pytest.raises(InputError, match=r"600 new ones are more than the 512"),
    ):
        opened.answer(Request(PROMPT, new=600, raw=True), progress=nothing, emit=nothing)
