"""What the process takes besides weights: measured in a rehearsed pass, and remembered from run to run.

A limit hides part of it: where memory is short, the kernel takes pages of the interpreter's and the
libraries' files back, and they are missing from what is counted, but not from what is needed: each is read
again when its code runs. What is anonymous it cannot take (there is no swap to count on), so that is counted
as it is, and pages of files as they are where memory is not short.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tierline.cache import cache_folder, read_cached, write_cached
from tierline.run.process_memory import held_bytes
from tierline.run.source import Source
from tierline.units import MIB

# What comes on top of a rehearsal: readers' stacks, an object for each tile, page tables. 4 to 5 MiB were
# seen, 2 MiB of page tables beside them.
_UNREHEARSED_BYTES = 8 * MIB
# Pages of files in a process that runs, without a limit: 100 to 103 MiB for Llama and SmolLM2 in bf16, int8
# and Q4_1 (RssFile after a rehearsal; torch 2.13 for CPU, transformers 5.23, x86-64).
_LIBRARY_BYTES = 104 * MIB
# All that the command line's process takes without weights of a model with few words: 352 MiB (a tiny Llama,
# without a limit), 3 of them for accelerate where that is installed; 128,256 words take 32 more.
_USUAL_BYTES = 349 * MIB
_RECORD_LIMIT_BYTES = 100


@dataclass(slots=True)
class Held:
    """The most memory that was held at any time it was noted: anonymous, and pages of files."""

    anonymous_bytes: int = 0
    file_bytes: int = 0

    def note(self, *_: object) -> None:
        """Note what is held now; also a hook."""
        anonymous_bytes, file_bytes = held_bytes()
        self.anonymous_bytes = max(self.anonymous_bytes, anonymous_bytes)
        self.file_bytes = max(self.file_bytes, file_bytes)

    def reserve_bytes(self, peak_bytes: int, library_bytes: int = 0) -> int:
        """Return what to keep for everything but weights, where `peak_bytes` were in memory at once.

        `library_bytes` are the pages of files that are needed, of which some may have been taken by then.
        """
        anonymous_bytes = max(self.anonymous_bytes, peak_bytes - self.file_bytes)
        return anonymous_bytes + max(self.file_bytes, library_bytes) + _UNREHEARSED_BYTES


def remember_reserve(source: Source, reserved_bytes: int, held: Held) -> None:
    """Keep what a process that did nothing else, within no limit, took; the least of all runs counts."""
    known = _read(_reserve_record(source))
    if reserved_bytes > 0 and (known is None or reserved_bytes < known):
        _write(_reserve_record(source), reserved_bytes)
    library_bytes = _read(_library_record(source))
    if held.file_bytes > 0 and (library_bytes is None or held.file_bytes < library_bytes):
        _write(_library_record(source), held.file_bytes)


def known_reserve_bytes(source: Source) -> int:
    """Return what a run of such a model once took without weights; before the first, what is usual."""
    return _read(_reserve_record(source)) or _USUAL_BYTES


def known_library_bytes(source: Source) -> int:
    """Return the pages of files that a run of such a model once held; before the first, what is usual."""
    return _read(_library_record(source)) or _LIBRARY_BYTES


def _reserve_record(source: Source) -> Path:
    """Return where the reserve of this kind of model is kept."""
    return _record("reserve-unlimited", source.config, source.compute_format)


def _library_record(source: Source) -> Path:
    return _record("library-pages", source.config, source.compute_format)


def _record(name: str, *kind: object) -> Path:
    """Return where a figure of such a process is kept, under the libraries' versions of now."""
    made_by = [version(package) for package in ("tierline", "torch", "transformers")]
    text = json.dumps([*kind, made_by], sort_keys=True, default=str)
    return cache_folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.txt"


def _read(record: Path) -> int | None:
    text = (read_cached(record, _RECORD_LIMIT_BYTES) or b"").decode(errors="replace")
    return int(text) if text.isdecimal() else None


def _write(record: Path, value: int) -> None:
    write_cached(record, str(value).encode())
