"""A sweep: chunks evaluated here or elsewhere, kept as parts until all are there, then one file.

A chunk depends on nothing but the question and its number. Whatever is killed, whenever: what a part holds is
not done again, what none holds is done, and the file is there once all parts are.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import get_ident

from tierline.errors import InputError
from tierline.search.axes import read_axes
from tierline.search.evaluate import Evaluator
from tierline.search.files import FileFormat, encode, format_of, join
from tierline.search.table import Column

# Rows that fit a processor's cache as arrays; fewer where a row takes a plan and a simulation of its own.
_LARGEST_CHUNK, _SMALLEST_CHUNK = 2**15, 2**8
_MANIFEST = "sweep.json"

Given = tuple[tuple[str, tuple[str, ...]], ...]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Question:
    """What is swept: every option with its values as text, in the order of the axes."""

    given: Given

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str]]) -> "Question":
        """Return the question that options ask; raise InputError for what cannot be read."""
        question = cls(tuple((name, tuple(texts)) for name, texts in given.items()))
        _ = question.evaluator
        return question

    @cached_property
    def evaluator(self) -> Evaluator:
        """What answers it."""
        return Evaluator.of(read_axes(dict(self.given)))

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.evaluator.space.rows

    @cached_property
    def chunk_rows(self) -> int:
        """Rows of a chunk: about a second's work."""
        together = 1
        for axis in self.evaluator.space.counts:
            together *= len(axis)
        if self.evaluator.simulates:
            together = 1
        return min(_LARGEST_CHUNK, _SMALLEST_CHUNK * together)

    @property
    def chunks(self) -> range:
        """The numbers of its chunks."""
        return range(-(-self.rows // self.chunk_rows))

    def rows_of(self, chunk: int) -> range:
        """Return the numbers of the rows in a chunk."""
        start = chunk * self.chunk_rows
        return range(start, min(self.rows, start + self.chunk_rows))

    @property
    def digest(self) -> str:
        """What tells it from every other question, the files that it names and the program included."""
        files = [str(v) for a in self.evaluator.space.axes if a.option in ("model", "on") for v in a.values]
        stamps = [(n, s.st_size, s.st_mtime_ns) for n in files if Path(n).is_file() and (s := Path(n).stat())]
        text = json.dumps([version("tierline"), self.given, self.chunk_rows, stamps])
        return hashlib.sha256(text.encode()).hexdigest()


Part = tuple[int, bytes]
# Takes a question, the chunks that are wanted and the format, and yields chunks in any order.
Runner = Callable[[Question, Iterable[int], FileFormat], Iterator[Part]]


def make_part(given: Given, chunk: int, chosen: FileFormat) -> bytes:
    """Return a chunk of a question as the part of a file; every process keeps what its chunks share."""
    question = _question(given, get_ident())
    return encode(_table(question, chunk), chosen)


def run_here(question: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
    """Yield chunks one after another, made in this process."""
    for chunk in chunks:
        yield chunk, make_part(question.given, chunk, chosen)


def tables(question: Question) -> Iterator[dict[str, Column]]:
    """Yield all rows, a chunk at a time, without any file."""
    for chunk in question.chunks:
        yield _table(question, chunk)


def sweep(
    question: Question, out: Path, *, runner: Runner = run_here, progress: Progress | None = None
) -> int:
    """Write all rows into `out`; return how many were there already, from a run that ended early.

    `progress` is called with rows done and rows in all. Raises InputError for a name that asks for no known
    format, for a file that exists, and for parts of another question.
    """
    chosen = format_of(out)
    if out.exists():
        raise InputError(f"{out}: exists; remove it or write to another file")
    folder = out.with_name(out.name + ".parts")
    _claim(question, folder)
    done = {int(path.stem) for path in folder.glob("*.part")}
    before = finished = sum(len(question.rows_of(chunk)) for chunk in done)
    if progress:
        progress(finished, question.rows)
    for chunk, data in runner(question, (c for c in question.chunks if c not in done), chosen):
        partial = folder / f"{chunk:08d}.partial"
        partial.write_bytes(data)
        partial.replace(_part(folder, chunk))
        finished += len(question.rows_of(chunk))
        if progress:
            progress(finished, question.rows)
    parts = [_part(folder, chunk) for chunk in question.chunks]
    join(parts, list(question.evaluator.columns), out, chosen)
    shutil.rmtree(folder)
    return before


def _part(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:08d}.part"


def _claim(question: Question, folder: Path) -> None:
    """Make the folder of parts, or see that it is of this question."""
    manifest = folder / _MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    if manifest.exists():
        if manifest.read_text(encoding="utf-8") != question.digest:
            raise InputError(f"{folder}: holds parts of another sweep; remove it or write to another file")
        return
    if any(folder.glob("*.part")):
        raise InputError(f"{folder}: holds parts that no sweep claims; remove it or write to another file")
    partial = folder / f"{_MANIFEST}.partial"
    partial.write_text(question.digest, encoding="utf-8")
    partial.replace(manifest)


def _table(question: Question, chunk: int) -> dict[str, Column]:
    rows = question.rows_of(chunk)
    return question.evaluator.evaluate(rows.start, rows.stop)


@lru_cache(maxsize=4)
def _question(given: Given, thread: int) -> Question:  # noqa: ARG001 - threads do not share what they keep
    return Question(given)
