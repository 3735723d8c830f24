"""Calibration's parts: rounds, lanes, paced reads in virtual time, nameless files, the written file."""

import os
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.calibrate.budget import FULL, QUICK
from tierline.calibrate.calibrate import Found
from tierline.calibrate.disk import Disk, measured_file
from tierline.calibrate.lanes import Lanes
from tierline.calibrate.memory import Memory, arena_bytes, filled_arena, largest_cache_bytes
from tierline.calibrate.rounds import Group, Repeated, interleave, summarise
from tierline.calibrate.write import machine_table, provenance, save, to_toml
from tierline.errors import FaultError, InputError
from tierline.machines.calibration import Calibration, ExpansionRate, Measured, ProductRate, ReadRate
from tierline.machines.load import load_machine
from tierline.run.direct_io import Extract
from tierline.sourced import Sourced
from tierline.units import KIB, MIB

TINY = replace(
    QUICK,
    request_bytes=(4 * KIB, 16 * KIB),
    readers=(1, 2),
    file_bytes=MIB,
    fill_s=0.0,
)


class VirtualClock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class PacedFile:
    """A file whose reads take virtual time: `bytes_per_s` for all readers together."""

    def __init__(self, clock: VirtualClock, bytes_per_s: float, footprint_bytes: int) -> None:
        self.footprint_bytes = footprint_bytes
        self.reads: list[tuple[int, int]] = []
        self._clock, self._bytes_per_s = clock, bytes_per_s
        self._lock = threading.Lock()

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        with self._lock:
            self.reads.append((extract.offset, extract.footprint_bytes))
            self._clock.now_s += extract.footprint_bytes / self._bytes_per_s
        return into[: extract.footprint_bytes]


@contextmanager
def disk_of(file: PacedFile, clock: VirtualClock) -> Iterator[Disk]:
    disk = Disk(file, largest_bytes=64 * KIB, most_readers=4, clock=clock)
    try:
        yield disk
    finally:
        disk.close()


@pytest.mark.parametrize("readers", [1, 2, 4])
@pytest.mark.parametrize("request_bytes", [4 * KIB, 64 * KIB])
def test_a_paced_file_gives_the_paced_rate(readers: int, request_bytes: int) -> None:
    clock = VirtualClock()
    file = PacedFile(clock, 1_999_993.0, 7 * MIB)
    with disk_of(file, clock) as disk:
        rate = disk.rate(request_bytes, readers, seconds=50 * request_bytes / 1_999_993)
    # A lane may see the clock after a read of another one: at most a request of each is out of place.
    assert rate == pytest.approx(1_999_993, rel=1e-9 if readers == 1 else 0.15)


def test_reads_follow_one_another_and_begin_again_at_the_end() -> None:
    clock = VirtualClock()
    file = PacedFile(clock, 1e6, 5 * 4 * KIB + 1)
    with disk_of(file, clock) as disk:
        disk.rate(4 * KIB, 1, seconds=10.5 * 4 * KIB / 1e6)
    assert [offset // (4 * KIB) for offset, _ in file.reads] == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_slow_reads_are_timed_twice_each_however_short_the_sample() -> None:
    clock = VirtualClock()
    file = PacedFile(clock, 1.0, MIB)
    with disk_of(file, clock) as disk:
        assert disk.rate(4 * KIB, 1, seconds=0.0) == pytest.approx(1.0)
    assert len(file.reads) == 3


def test_the_caller_works_meanwhile() -> None:
    clock = VirtualClock()
    file, worked = PacedFile(clock, 1e6, MIB), threading.Event()
    read = file.read

    def gated(extract: Extract, into: memoryview) -> memoryview:
        # The first read of each lane comes before the clock starts; the others need the caller's work.
        assert len(file.reads) < 2 or worked.wait(10)
        return read(extract, into)

    file.read = gated  # type: ignore[method-assign]
    with disk_of(file, clock) as disk:
        disk.rate(4 * KIB, 2, seconds=0.5, meanwhile=worked.set)
    assert len(file.reads) > 100


def test_a_read_that_fails_is_raised_and_not_waited_for() -> None:
    clock = VirtualClock()
    file = PacedFile(clock, 1e6, MIB)

    def failing(_extract: Extract, _into: memoryview) -> memoryview:
        raise FaultError("file: reading calibration at offset 0 failed")

    file.read = failing  # type: ignore[method-assign,assignment]
    with disk_of(file, clock) as disk:
        with pytest.raises(FaultError, match="offset 0"):
            disk.rate(4 * KIB, 2, seconds=1.0)
        with pytest.raises(FaultError, match="offset 0"), disk.reading(4 * KIB, 2):
            pass


def test_background_reads_end_with_the_block_and_when_the_work_is_interrupted() -> None:
    clock = VirtualClock()
    file = PacedFile(clock, 1e6, MIB)
    with disk_of(file, clock) as disk:
        with disk.reading(4 * KIB, 2):
            while len(file.reads) < 5:
                time.sleep(0)
        after = len(file.reads)
        time.sleep(0.01)
        assert len(file.reads) == after
        with pytest.raises(KeyboardInterrupt), disk.reading(4 * KIB, 2):
            raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            disk.rate(4 * KIB, 2, seconds=1e9, meanwhile=_interrupted)
    assert not [t for t in threading.enumerate() if t.name.startswith("tierline-calibrate")]


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_a_folder_is_measured_through_a_file_without_a_name(tmp_path: Path) -> None:
    with measured_file(tmp_path, TINY) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.footprint_bytes >= 2 * 16 * KIB
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors - 2


def test_a_file_is_read_itself_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(64 * KIB))
    before = path.stat()
    with measured_file(path, TINY) as file:
        assert file.path == path
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_a_file_too_small_and_a_folder_that_is_not_there_are_errors(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(100))
    with pytest.raises(InputError, match="give a larger file"), measured_file(tmp_path / "small", TINY):
        pass
    with pytest.raises(InputError, match="cannot measure this disk"), measured_file(tmp_path / "a/b", TINY):
        pass


def test_every_round_runs_everything_once_and_the_median_is_kept() -> None:
    order: list[str] = []
    values = {"a": iter([1.0, 9.0, 2.0]), "b": iter([7.0, 7.0, 7.0])}

    def sampler(name: str) -> float:
        order.append(name)
        return next(values[name])

    groups = [Group("one", {"a": lambda: sampler("a")}), Group("two", {"b": lambda: sampler("b")})]
    told: list[tuple[str, float, float]] = []
    found = interleave(
        groups, rounds=3, limit_s=9.0, progress=lambda *a: told.append(a), clock=VirtualClock()
    )
    assert order == ["a", "b"] * 3
    assert found[0]["a"].value == 2.0
    assert found[1]["b"] == Repeated(7.0, 0.0)
    assert [what for what, _, _ in told[:2]] == ["one: a", "two: b"]


def test_time_ends_the_rounds_but_never_the_first() -> None:
    clock = VirtualClock()
    taken: list[str] = []

    def slow(name: str) -> float:
        clock.now_s += 2.0
        taken.append(name)
        return 5.0

    samplers = {name: (lambda name=name: slow(name)) for name in "abc"}
    told: list[tuple[str, float, float]] = []
    found = interleave(
        [Group("slow", samplers)], rounds=9, limit_s=7.0, progress=lambda *a: told.append(a), clock=clock
    )
    assert taken == ["a", "b", "c", "a"]
    assert found[0]["a"].spread == 0.0
    assert found[0]["c"].spread is None
    assert all(done_s <= all_s <= 8.0 for _, done_s, all_s in told)


@given(st.lists(st.floats(1e-3, 1e12), min_size=2, max_size=9), st.floats(1e-3, 1e3))
def test_a_spread_is_not_negative_and_has_no_unit(samples: list[float], scale: float) -> None:
    one, scaled = summarise(samples), summarise([scale * s for s in samples])
    assert one.spread is not None
    assert scaled.spread is not None
    assert one.spread >= 0
    assert scaled.spread == pytest.approx(one.spread, rel=1e-9, abs=1e-9)
    assert min(samples) <= one.value <= max(samples)


def test_the_spread_is_half_the_interquartile_range() -> None:
    assert summarise([8.0, 9.0, 10.0, 11.0, 12.0]) == Repeated(10.0, 0.1)


def test_the_arena_is_larger_than_the_caches_but_leaves_memory(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "junk")):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "size").write_text(size + "\n")
    cache_bytes = largest_cache_bytes(tmp_path)
    assert cache_bytes == 2 * MIB
    assert arena_bytes(100 * MIB, MIB, cache_bytes) == 4 * MIB
    assert arena_bytes(100 * MIB, 7 * MIB, cache_bytes) == 7 * MIB
    assert arena_bytes(9 * MIB, 7 * MIB, cache_bytes) == 2 * MIB
    assert arena_bytes(0, 7 * MIB, cache_bytes) == MIB
    assert largest_cache_bytes(tmp_path / "index0") == 0


def test_memory_counts_the_bytes_it_reads_and_copies() -> None:
    arena = filled_arena(16 * MIB)
    memory = Memory(arena)
    try:
        assert 1e6 < memory.read(0.001) < 1e14
        assert 1e6 < memory.copy(0.001) < 1e14
    finally:
        memory.close()
    assert (np.frombuffer(arena, dtype=np.uint8) == 0x3C).all()


def test_lanes_add_up() -> None:
    clock = VirtualClock()
    lanes = Lanes(1, clock=clock)

    def step() -> int:
        clock.now_s += 3.0
        return 21

    assert lanes.rate([step], 10.0) == 7.0
    lanes.close()


def _sourced(value: float, spread: float | None = 0.0625) -> Sourced:
    return Sourced(value, "measured", "bench", spread)


@pytest.fixture
def found() -> Found:
    figure = Measured(_sourced(1_999_993.0), _sourced(1_499_977.0, None))
    return Found(
        Calibration(
            memory_read=figure,
            memory_copy=figure,
            call=Measured(_sourced(1.25e-5)),
            reads=(ReadRate(256 * KIB, 2, figure),),
            products=(
                ProductRate("bf16", "bf16", 1, figure),
                ProductRate("bf16", "bf16", 128, Measured(_sourced(7.5e11))),
                ProductRate("q4_1", "fp32", 128, figure),
            ),
            expansions=(ExpansionRate("int4:group=32,scale=bf16,zero=float", "bf16", figure),),
        ),
        disk=_sourced(1_900_009.0),
        direct=False,
        cached=True,
    )


def test_what_is_written_is_read_back(found: Found, tmp_path: Path) -> None:
    source = provenance(tmp_path)
    path = tmp_path / "mine.toml"
    save(to_toml(machine_table(found, tmp_path, source, ["A note."])), path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]
    machine = load_machine(str(path))
    assert machine.calibration == found.calibration
    assert machine.link("disk").rate.value == 1_900_009
    assert machine.fast.rate is not None
    assert machine.fast.rate.value == 1_999_993
    assert {f: r.value for f, r in machine.compute[0].flop_per_s.items()} == {"bf16": 7.5e11}
    assert "A note." in machine.notes
    assert any("O_DIRECT is refused" in note for note in machine.notes)
    assert any("outgrow the caches" in note for note in machine.notes)


def test_names_of_the_manufacturer_cannot_break_the_file(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierline.calibrate.write.processor", lambda: 'CPU "x"\n\\u \x7f é\x1b[1m')
    source = provenance(tmp_path)
    table = machine_table(found, tmp_path, source, [])
    assert tomllib.loads(to_toml(table)) == table
    assert "\x1b" not in to_toml(table)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        save("x", tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_calibration_is_planned_to_be_as_short_as_it_says() -> None:
    assert QUICK.fill_s + QUICK.reads_limit_s + 6 * QUICK.chosen_s + QUICK.compute_limit_s < 15
    assert FULL.fill_s + FULL.reads_limit_s + 10 * FULL.chosen_s + FULL.compute_limit_s < 100
