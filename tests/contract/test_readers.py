"""What every kind of reader keeps to: order, faults, waits that end; of Python and of C."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import FaultError
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.native_reads import NativeReaders, native_reads
from tierline.run.readers import Read, Readers, ThreadReaders, start_readers

PLACE_BYTES = 8192
Start = Callable[[memoryview, int], Readers]


def threads(ring: memoryview, count: int) -> Readers:
    return ThreadReaders(ring, count)


def native(ring: memoryview, count: int) -> Readers:
    library = native_reads()
    if library is None:
        pytest.skip("no compiler")
    pool = library.start(count)
    assert pool is not None
    return NativeReaders(library, pool, ring)


KINDS = pytest.mark.parametrize("start", [threads, native])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "stored"
    path.write_bytes(bytes(i * 7 % 251 for i in range(100_003)))
    return path


@pytest.fixture
def file(stored: Path) -> Iterator[DirectFile]:
    with DirectFile(stored, request_bytes=4096) as opened:
        yield opened


def settled_tasks(most: int) -> int:
    """Count this process's threads, once there are at most so many: one that ended is listed for a moment."""
    deadline_s = time.monotonic() + 2
    while (count := len(list(Path("/proc/self/task").iterdir()))) > most and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return count


def extract(offset: int, count: int) -> Extract:
    return Extract(f"w[{offset}]", offset, count)


@KINDS
@given(
    wanted=st.lists(st.tuples(st.integers(0, 99_000), st.integers(1, 1003)), min_size=1, max_size=300),
    count=st.integers(1, 5),
)
def test_every_read_arrives_whole_where_it_was_asked_for(
    stored: Path, start: Start, wanted: list[tuple[int, int]], count: int
) -> None:
    content, places = stored.read_bytes(), 3
    ring = anonymous_memory(places * PLACE_BYTES)
    with DirectFile(stored, request_bytes=4096) as file:
        readers = start(ring, count)
        reads = [Read.of(file, extract(*w)) for w in wanted]
        asked: list[int] = []
        for i, read in enumerate(reads):
            at = i % places * PLACE_BYTES
            if i >= places:
                check(readers, reads, asked, ring, i - places, content)
            asked.append(readers.ask(read, at))
        for i in range(max(0, len(reads) - places), len(reads)):
            check(readers, reads, asked, ring, i, content)
        assert readers.read_bytes == sum(read.span_bytes for read in reads)
        assert readers.busy_s > 0
        readers.close()


def check(
    readers: Readers, reads: list[Read], asked: list[int], ring: memoryview, i: int, content: bytes
) -> None:
    assert readers.wait(asked[i], 5.0)
    wanted = reads[i].extract
    at = i % 3 * PLACE_BYTES + wanted.offset - reads[i].file.aligned_start(wanted)
    stop = wanted.offset + wanted.footprint_bytes
    assert bytes(ring[at : at + wanted.footprint_bytes]) == content[wanted.offset : stop]
    done = readers.done(asked[i])
    assert done.start_s <= done.stop_s <= time.perf_counter()


@KINDS
def test_a_file_that_cannot_be_read_any_more_is_named(start: Start, file: DirectFile, tmp_path: Path) -> None:
    readers = start(anonymous_memory(PLACE_BYTES), 2)
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, file.descriptor)  # a read of a folder fails
    os.close(folder)
    number = readers.ask(Read.of(file, extract(5000, 77)), 0)
    with pytest.raises(
        FaultError, match=r"stored: reading w\[5000\] at offset [\d,]+ failed: Is a directory"
    ):
        readers.wait(number, 5.0)
    readers.close()


@KINDS
def test_a_file_that_was_cut_is_named(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(bytes(50_000))
    with DirectFile(path) as file:
        readers = start(anonymous_memory(PLACE_BYTES), 1)
        os.truncate(path, 4096)
        number = readers.ask(Read.of(file, extract(20_000, 4001)), 0)
        with pytest.raises(FaultError, match=r"the file ends at 4,096 .*cut while in use"):
            readers.wait(number, 5.0)
        readers.close()


@KINDS
def test_what_is_dropped_is_not_waited_for_and_others_follow(start: Start, file: DirectFile) -> None:
    ring = anonymous_memory(8 * PLACE_BYTES)
    readers = start(ring, 1)
    for i in range(8):
        readers.ask(Read.of(file, extract(1000 * i, 1009)), i * PLACE_BYTES)
    readers.drop()
    read_before = readers.read_bytes
    number = readers.ask(Read.of(file, extract(70_000, 1009)), 0)
    assert readers.wait(number, 5.0)
    span_bytes = Read.of(file, extract(70_000, 1009)).span_bytes
    assert readers.read_bytes == read_before + span_bytes
    readers.close()


@KINDS
def test_closing_ends_a_wait_and_all_threads(start: Start, tmp_path: Path) -> None:
    path, much_bytes, before = tmp_path / "hole", 2**25, settled_tasks(1)
    path.touch()
    os.truncate(path, much_bytes)
    with DirectFile(path) as file:
        readers = start(anonymous_memory(much_bytes), 2)
        numbers = [readers.ask(Read.of(file, extract(0, much_bytes)), 0) for _ in range(256)]
        closer = threading.Timer(0.1, readers.close)
        closer.start()
        started_s = time.monotonic()
        with pytest.raises(FaultError, match="closed while a pass"):
            readers.wait(numbers[-1], 30.0)
        assert time.monotonic() - started_s < 1
        closer.join()
    assert settled_tasks(before) == before


def test_readers_that_nobody_closed_end_with_the_last_use(file: DirectFile) -> None:
    before = settled_tasks(1)
    readers = native(anonymous_memory(PLACE_BYTES), 3)
    assert len(list(Path("/proc/self/task").iterdir())) == before + 3
    readers.ask(Read.of(file, extract(0, 100)), 0)
    del readers
    assert settled_tasks(before) == before


def test_files_that_do_more_than_read_are_read_in_python(stored: Path) -> None:
    class Watched(DirectFile):
        """A file that somebody watches."""

    ring = anonymous_memory(PLACE_BYTES)
    for kind in (DirectFile, Watched):
        with kind(stored) as file:
            readers = start_readers(ring, [file], 1)
            in_c = kind is DirectFile and native_reads() is not None
            assert isinstance(readers, NativeReaders if in_c else ThreadReaders)
            readers.close()
