"""What a process needs besides weights is counted in full, also where the kernel took some of it back."""

import mmap
from pathlib import Path

import pytest

from tierline.errors import BudgetError
from tierline.machines.memory import Memory
from tierline.run import budget
from tierline.run.budget import too_little_memory, usable_bytes, weight_budget
from tierline.run.process_memory import held_bytes, resident_bytes
from tierline.run.reserve import Held
from tierline.units import MIB

_ALLOWANCE = 8 * MIB


def test_the_kernel_tells_anonymous_memory_from_pages_of_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(31 * MIB))
    anonymous, of_files = held_bytes()
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        assert sum(pages[:: mmap.PAGESIZE]) == 0
        private = bytearray(b"x") * (53 * MIB)
        then_anonymous, then_of_files = held_bytes()
        assert abs(then_anonymous - anonymous - len(private)) < 3 * MIB
        assert abs(then_of_files - of_files - 31 * MIB) < 3 * MIB
        assert abs(then_anonymous + then_of_files - resident_bytes()) < 3 * MIB


def test_without_pressure_the_reserve_is_the_peak() -> None:
    held = Held(anonymous_bytes=280 * MIB, file_bytes=101 * MIB)
    assert held.reserve_bytes(389 * MIB) == 389 * MIB + _ALLOWANCE
    assert held.reserve_bytes(389 * MIB, 104 * MIB) == 392 * MIB + _ALLOWANCE


def test_pages_that_were_taken_back_are_needed_all_the_same() -> None:
    held = Held(anonymous_bytes=297 * MIB, file_bytes=77 * MIB)
    assert held.reserve_bytes(331 * MIB, 103 * MIB) == (297 + 103) * MIB + _ALLOWANCE


def in_cgroup(monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
    memory = Memory(capacity, capacity, "the cgroup's limit", is_cgroup=True)
    monkeypatch.setattr(budget, "read_memory", lambda: memory)


def test_a_cgroup_leaves_the_kernel_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroup(monkeypatch, 420 * MIB)
    assert usable_bytes(420 * MIB) == 412 * MIB
    assert usable_bytes(2**40) == 412 * MIB
    assert usable_bytes(401 * MIB) == 401 * MIB
    monkeypatch.setattr(budget, "read_memory", lambda: Memory(420 * MIB, 420 * MIB, "the computer"))
    assert usable_bytes(420 * MIB) == 420 * MIB


def test_the_refusal_names_the_cgroup_that_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroup(monkeypatch, 420 * MIB)
    with pytest.raises(
        BudgetError, match=r"Give --memory 423MiB .* cgroup of at least 431MiB \(this one has 420"
    ):
        weight_budget(resident=None, memory=412 * MIB, reserved_bytes=407 * MIB, kv_bytes=5 * MIB,
                      least_bytes=11 * MIB)  # fmt: skip
    in_cgroup(monkeypatch, 2**40)
    assert str(too_little_memory(7 * MIB, 407 * MIB, 0, 11 * MIB)).endswith("Give --memory 418MiB or more")
