"""A model read from several copies of its file: same bytes, shared work, and nothing that is no copy."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from tierline.errors import FaultError, InputError
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.pace import Pace, PacedFile, PacedLink
from tierline.run.source import open_source
from tierline.run.staging import Staging
from tierline.run.stripe import StripedFile, check_copies
from tierline.run.tiles import Tile

PIECE = 8192


def copies(folder: Path, count: int, size: int = 40 * PIECE) -> list[Path]:
    data = bytes(i * 131 % 251 for i in range(size))
    paths = [folder / f"copy{i}" for i in range(count)]
    for path in paths:
        path.write_bytes(data)
    return paths


def read(file: DirectFile, start: int, count: int) -> bytes:
    extract = Extract(f"piece at {start}", start, count)
    return bytes(file.read(extract, anonymous_memory(file.span_bytes(extract))))


def test_every_copy_is_read_in_turn_and_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = copies(tmp_path, 3)
    data = paths[0].read_bytes()
    striped = StripedFile([DirectFile(path) for path in paths])
    with striped:
        for i in range(30):
            start = i * PIECE + 77
            assert read(striped, start, 1009) == data[start : start + 1009]
        assert len(set(striped.read_bytes)) == 1
        assert sum(striped.read_bytes) >= 30 * 1009
        assert striped.footprint_bytes == len(data)


class Slow(DirectFile):
    """A copy on a disk that takes its time for each read."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(path)
        self._seconds = seconds

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        time.sleep(self._seconds)
        return super().read(extract, into)


def test_a_slow_copy_gets_less_of_the_work(tmp_path: Path) -> None:
    paths = copies(tmp_path, 2)
    striped = StripedFile([Slow(paths[0], 0.02), Slow(paths[1], 0.005)])
    with striped:
        left = iter(range(40))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    i = next(left, None)
                if i is None:
                    return
                read(striped, i * PIECE, PIECE)

        threads = [threading.Thread(target=work) for _ in range(4)]
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - started_s
        slow, fast = striped.read_bytes
        assert fast > 2 * slow  # 4 : 1 when both are busy all the time
        assert took_s < 40 / 2 * 0.02 * 0.8  # faster than half of them each


def test_a_fault_names_the_copy_that_failed(tmp_path: Path) -> None:
    paths = copies(tmp_path, 2)
    with StripedFile([DirectFile(path) for path in paths]) as striped:
        paths[1].write_bytes(paths[1].read_bytes()[: 4 * PIECE])
        read(striped, 30 * PIECE, PIECE)
        with pytest.raises(FaultError, match=r"copy1: .*was cut while in use"):
            read(striped, 30 * PIECE, PIECE)


def staged_s(file: DirectFile, path: Path, readers: int, passes: int) -> float:
    """Return the seconds in which `passes` cycles of all pieces come through staging, the first one ready."""
    tensor = StoredTensor("w", "int8", (40, PIECE), path, 0, 40 * PIECE)
    tiles = [Tile(tensor, i, i + 1, i * PIECE, PIECE) for i in range(40)]
    staging = Staging(tiles, {path: file}, anonymous_memory((readers + 1) * PIECE), readers=readers)
    try:
        with staging.borrow(0):
            started_s = time.perf_counter()
        for i in range(1, 40 * passes):
            with staging.borrow(i % 40) as data:
                assert data[0] == (i % 40) * PIECE * 131 % 251
        return time.perf_counter() - started_s
    finally:
        staging.close()


def test_two_paced_copies_stream_twice_as_fast(tmp_path: Path) -> None:
    paths = copies(tmp_path, 2)
    pace = Pace("board", "wire", 5e5, 1e-3)
    alone_s = staged_s(PacedFile(paths[0], PacedLink(pace)), paths[0], 2, 1)
    both_s = staged_s(StripedFile([PacedFile(p, PacedLink(pace)) for p in paths]), paths[0], 4, 1)
    planned_s = 39 * PIECE / pace.sustained_bytes_per_s(PIECE, 2)
    assert 0.9 * planned_s < alone_s < 1.3 * planned_s
    assert 0.9 * planned_s / 2 < both_s < 0.7 * alone_s


def test_closing_closes_every_copy_and_twice_is_fine(tmp_path: Path) -> None:
    files = [DirectFile(path) for path in copies(tmp_path, 2)]
    striped = StripedFile(files)
    striped.close()
    striped.close()
    for file in files:
        with pytest.raises(FaultError):
            read(file, 0, 100)


def test_only_a_copy_is_taken(tiny_gguf: Path, tmp_path: Path) -> None:
    source = open_source(tiny_gguf)
    good = Path(shutil.copy(tiny_gguf, tmp_path / "good.gguf"))
    check_copies(source, [good])
    data = bytearray(good.read_bytes())

    shorter = tmp_path / "shorter.gguf"
    shorter.write_bytes(data[:-512])
    with pytest.raises(InputError, match="is not a copy of it"):
        check_copies(source, [good, shorter])

    for place in (100, len(data) - 3):  # the header, then the last tensor
        other = tmp_path / f"other{place}.gguf"
        changed = bytearray(data)
        changed[place] ^= 0xFF
        other.write_bytes(changed)
        with pytest.raises(InputError, match="another model or damaged"):
            check_copies(source, [other])

    with pytest.raises(InputError, match="no such file"):
        check_copies(source, [tmp_path / "none.gguf"])
    with pytest.raises(InputError, match="is the same file as"):
        check_copies(source, [good, good])
    link = tmp_path / "link.gguf"
    link.hardlink_to(good)
    with pytest.raises(InputError, match="is the same file as"):
        check_copies(source, [good, link])
    with pytest.raises(InputError, match="is the same file as"):
        check_copies(source, [tiny_gguf])
    with pytest.raises(InputError, match="at most 15"):
        check_copies(source, [good] * 16)
