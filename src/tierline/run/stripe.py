"""A model read from several files at once: copies of its one file, best on disks of their own.

Every copy is whole (docs/decisions/ says why), so that each read may go to whichever copy has the least to do
and disks of different speed share the work by what they give.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from tierline.errors import InputError
from tierline.run.direct_io import DirectFile, Extract
from tierline.run.source import Source
from tierline.units import format_bytes

_SAMPLE_BYTES = 4096
_SAMPLES = 64
_MOST_COPIES = 16


def check_copies(source: Source, copies: Sequence[Path]) -> None:
    """Raise InputError unless every one of `copies` is another file with what the model's own file holds.

    Size, header and 64 samples spread over the file are compared, not every byte: `--verify` holds what is
    read against a packed file's checksums, whichever copy it came from.
    """
    if not copies:
        return
    if len(source.checkpoint.files) != 1:
        raise InputError(
            f"--stripe: {source.path} is {len(source.checkpoint.files)} files; `tierline pack` makes one of "
            "them, which can be copied to other disks"
        )
    if len(copies) >= _MOST_COPIES:
        raise InputError(f"--stripe: {len(copies)} copies; at most {_MOST_COPIES - 1} are read at once")
    (own,) = source.checkpoint.files
    header_bytes = min((t.offset for t in source.checkpoint.tensors.values() if t.footprint_bytes), default=0)
    seen = {_identity(own)}
    for copy in copies:
        if not copy.is_file():
            raise InputError(f"--stripe {copy}: no such file; copy {own.name} to it first")
        if _identity(copy) in seen:
            raise InputError(
                f"--stripe {copy}: is the same file as {own} or another copy; name one of its own"
            )
        seen.add(_identity(copy))
        _compare(own, copy, header_bytes)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _compare(own: Path, copy: Path, header_bytes: int) -> None:
    size, other = own.stat().st_size, copy.stat().st_size
    if size != other:
        raise InputError(
            f"--stripe {copy}: has {format_bytes(other)} ({other:,} B), {own} {format_bytes(size)} "
            f"({size:,} B): it is not a copy of it; copy the file again"
        )
    step = max(_SAMPLE_BYTES, size // _SAMPLES)
    spans = [
        (start, min(_SAMPLE_BYTES, header_bytes - start)) for start in range(0, header_bytes, _SAMPLE_BYTES)
    ]
    spans += [(start, _SAMPLE_BYTES) for start in (*range(0, size, step), max(0, size - _SAMPLE_BYTES))]
    with own.open("rb") as first, copy.open("rb") as second:
        for start, count in spans:
            parts = [os.pread(file.fileno(), count, start) for file in (first, second)]
            if parts[0] != parts[1]:
                raise InputError(
                    f"--stripe {copy}: differs from {own} between bytes {start:,} and {start + count:,}: it "
                    "is another model or damaged; copy the file again"
                )


class StripedFile(DirectFile):
    """Several copies of one file as one: a read goes to the copy with the fewest bytes under way.

    Of copies that are equally busy the one is taken whose turn it is, so that reads alternate.
    """

    def __init__(self, files: Sequence[DirectFile]) -> None:
        """`files` are open and are closed with this."""
        self._files = tuple(files)
        self.path = files[0].path
        self.direct = all(file.direct for file in files)
        self.footprint_bytes = files[0].footprint_bytes
        self.alignment_bytes = max(file.alignment_bytes for file in files)
        self._under_way = [0] * len(files)
        self.read_bytes = [0] * len(files)
        self._turn = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every copy; a second call does nothing."""
        for file in self._files:
            file.close()

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        """Read from one of the copies as `DirectFile.read` does; it names the copy where it fails."""
        span_bytes = self.span_bytes(extract)
        with self._lock:
            count = len(self._files)
            turns = [(self._turn + i) % count for i in range(count)]
            chosen = min(turns, key=self._under_way.__getitem__)
            self._turn = (chosen + 1) % count
            self._under_way[chosen] += span_bytes
            self.read_bytes[chosen] += span_bytes
        try:
            return self._files[chosen].read(extract, into)
        finally:
            with self._lock:
                self._under_way[chosen] -= span_bytes
