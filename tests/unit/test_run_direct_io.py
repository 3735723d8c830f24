"""Direct reads: exact bytes at any offset, whole sectors counted, a buffered fallback that says so."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import FaultError, InputError
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory

SIZE = 20_011
CONTENT = bytes(i * 131 % 251 for i in range(SIZE))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("direct") / "file"
    made.write_bytes(CONTENT)
    return made


@given(offset=st.integers(0, SIZE - 1), length=st.integers(1, SIZE))
def test_any_stretch_is_read_exactly(path: Path, offset: int, length: int) -> None:
    extract = Extract("t", offset, min(length, SIZE - offset))
    with DirectFile(path) as file:
        span = file.span_bytes(extract)
        got = bytes(file.read(extract, anonymous_memory(span)))
        assert got == CONTENT[offset : offset + extract.footprint_bytes]
        assert extract.footprint_bytes <= span < extract.footprint_bytes + 2 * file.alignment_bytes


def test_memory_starts_on_a_huge_page() -> None:
    import ctypes

    for count in (1, 4096, 3 * 2**20):
        view = anonymous_memory(count)
        assert len(view) == count
        assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % 2**21 == 0


def test_where_direct_reads_are_refused_they_are_buffered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(name: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "open", refusing)
    with DirectFile(path) as file:
        assert not file.direct
        extract = Extract("t", 3, 1_009)
        assert file.span_bytes(extract) == 1_009
        assert bytes(file.read(extract, memoryview(bytearray(1_009)))) == CONTENT[3:1_012]


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return real(descriptor, [buffers[0][: max(512, len(buffers[0]) // 3 // 512 * 512)]], offset)

    with DirectFile(path) as file:
        monkeypatch.setattr(os, "preadv", short)
        extract = Extract("t", 700, 15_000)
        got = bytes(file.read(extract, anonymous_memory(file.span_bytes(extract))))
        assert got == CONTENT[700:15_700]


def test_a_missing_file_is_an_input_error_and_a_cut_one_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        DirectFile(tmp_path / "none")
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    with DirectFile(copy) as file:
        os.truncate(copy, 1_000)
        with pytest.raises(FaultError, match=r"t needs bytes 900 to 2,900, but the file ends at 1,000"):
            file.read(Extract("t", 900, 2_000), anonymous_memory(4096))
