"""A packed file while it is being written: under another name, with a journal of what is whole already.

After a kill the next start goes on where the journal ends: each panel it names is read back and compared
with its checksum, so that nothing is believed which is not on the disk.
"""

import errno
import fcntl
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from tierline.errors import FaultError, InputError
from tierline.run.pack.header import Panel
from tierline.units import format_bytes

_PARTIAL_SUFFIX, _JOURNAL_SUFFIX = ".partial", ".journal"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartialFile:
    """The file that becomes `path` when it is whole; use it as a context manager.

    `fingerprint` names what is being packed: a journal of anything else is begun anew. `checksums` are
    those of the panels written so far. Where the disk is full nothing is left behind; after any other
    error, and after a kill, what was written stays for the next start.
    """

    def __init__(self, path: Path, fingerprint: str, file_bytes: int) -> None:
        self.path = path
        self._fingerprint, self._file_bytes = fingerprint, file_bytes
        self._partial = path.with_name(path.name + _PARTIAL_SUFFIX)
        self._journal = path.with_name(path.name + _JOURNAL_SUFFIX)
        self.checksums: list[int] = []

    def __enter__(self) -> "PartialFile":
        self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._log = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._close()
            raise InputError(
                f"{self.path}: another `tierline pack` is writing it; let that finish"
            ) from error
        try:
            os.posix_fallocate(self._fd, 0, self._file_bytes)
        except OSError as error:
            self._fail(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in _FULL:
            self._fail(error)
        self._close()

    def resume(self, panels: Sequence[Panel]) -> None:
        """Take over the leading panels that an earlier start has written whole."""
        lines = os.pread(self._log, len(self._fingerprint) + 10 * (len(panels) + 1), 0).splitlines()
        written = lines[1:] if lines and lines[0] == self._fingerprint.encode() else []
        for panel, line in zip(panels, written, strict=False):
            checksum = zlib.crc32(os.pread(self._fd, panel.footprint_bytes, panel.offset))
            if line != _line(checksum).strip():
                break
            self.checksums.append(checksum)
        os.ftruncate(self._log, 0)
        self._record(f"{self._fingerprint}\n".encode() + b"".join(map(_line, self.checksums)))

    def write(self, panel: Panel, data: memoryview) -> None:
        """Write the next panel and note its checksum."""
        self._put(data, panel.offset)
        self.checksums.append(zlib.crc32(data))
        self._record(_line(self.checksums[-1]))

    def finish(self, header: bytes) -> None:
        """Write the header, make everything durable and give the file its name."""
        self._put(memoryview(header), 0)
        try:
            os.fsync(self._fd)
            self._partial.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self._fail(error)
        self._journal.unlink()

    def _record(self, lines: bytes) -> None:
        try:
            os.write(self._log, lines)
        except OSError as error:
            self._fail(error)

    def _put(self, data: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        """Raise what the user is to know; where there is no room, leave nothing."""
        if error.errno not in _FULL:
            raise FaultError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._close()
        self._partial.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)
        free = os.statvfs(self.path.parent)
        raise FaultError(
            f"{self.path}: the packed file takes {format_bytes(self._file_bytes)}, and there is no room for "
            f"it ({error.strerror}; {format_bytes(free.f_bavail * free.f_frsize)} are free on this disk). "
            "Nothing was left behind; make room or choose another directory"
        ) from error

    def _close(self) -> None:
        for name in ("_fd", "_log"):
            descriptor = getattr(self, name, -1)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)


def _line(checksum: int) -> bytes:
    return f"{checksum:08x}\n".encode()
