"""A process that loses its own pages to the limit is told so before it thrashes."""

from pathlib import Path

import pytest

from tierline.errors import BudgetError
from tierline.run import process_memory, rehearsed
from tierline.run.process_memory import fetched_bytes
from tierline.run.rehearsed import RehearsedSteps
from tierline.units import MIB


def noted(monkeypatch: pytest.MonkeyPatch, each_bytes: int) -> RehearsedSteps:
    fetched = iter(range(0, 100 * (each_bytes + 1), each_bytes + 1))
    monkeypatch.setattr(rehearsed, "fetched_bytes", lambda: next(fetched))
    steps = RehearsedSteps()
    for _ in range(7):
        steps.note()
    return steps


def test_pages_fetched_again_in_every_pass_are_a_refusal_with_what_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = noted(monkeypatch, 30 * MIB - 1)
    assert steps.lost_bytes == 30 * MIB
    with pytest.raises(BudgetError, match=r"fetches 30\.0 MiB .* Give --memory 441MiB or more"):
        steps.refuse_thrash(393 * MIB, 336 * MIB, 75 * MIB)
    steps.refuse_thrash(None, 336 * MIB, 75 * MIB)


def test_what_is_touched_for_the_first_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    noted(monkeypatch, 4096).refuse_thrash(393 * MIB, 336 * MIB, 75 * MIB)


def test_a_kernel_that_does_not_count_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for io in (tmp_path / "missing", tmp_path / "other"):
        (tmp_path / "other").write_text("rchar: 7\n", encoding="ascii")
        monkeypatch.setattr(process_memory, "_IO", io)
        assert fetched_bytes() == 0


def test_the_kernel_counts_what_storage_gave() -> None:
    assert fetched_bytes() >= 0
    steps = RehearsedSteps()
    for _ in range(3):
        steps.note()
    assert steps.step_s > 0
    assert steps.lost_bytes >= 0
