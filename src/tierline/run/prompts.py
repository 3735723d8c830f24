"""Prompts from a file of JSON lines and answers to another: what is done stays done when a run is killed."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tierline.errors import FaultError, InputError
from tierline.run.images.files import MOST_IMAGES
from tierline.units import format_bytes

_FILE_LIMIT_BYTES = 2**30
_LINE_LIMIT = 2**24


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of the file: a text, or the turns of a conversation. `index` counts lines from 0.

    The last turn is about `images`.
    """

    index: int
    turns: tuple[Mapping[str, str], ...]
    id: str | int | None = None
    images: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        """What the last turn says."""
        return self.turns[-1]["content"]

    @property
    def digest(self) -> str:
        """What tells this prompt from another."""
        told = hashlib.sha256(json.dumps([dict(turn) for turn in self.turns]).encode())
        for path in self.images:
            told.update(path.read_bytes())
        return told.hexdigest()[:16]


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Return the prompts of a JSONL file: `{"prompt": TEXT}` or `{"messages": [{"role", "content"}]}` a line.

    `"id"`, a text or a whole number, comes back with the answer. `"image"`, one file or a list, is what the
    last turn is about, named from the folder of `path`. Blank lines are ignored. Raises InputError naming the
    line that is something else.
    """
    try:
        if path.stat().st_size > _FILE_LIMIT_BYTES:
            raise InputError(
                f"{path}: more than {format_bytes(_FILE_LIMIT_BYTES)} of prompts; split the file"
            )
        with path.open(encoding="utf-8") as file:
            found = [_parse(path, number, line) for number, line in _lines(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    if not found:
        raise InputError(f'{path}: holds no prompt; write one a line, such as {{"prompt": "..."}}')
    return tuple(found)


def _lines(file: IO[str]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(_LINE_LIMIT + 1):
        if line.strip():
            yield number, line
        number += 1


def _parse(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}:{number + 1}"
    if len(line) > _LINE_LIMIT:
        raise InputError(f"{where}: more than {_LINE_LIMIT:,} characters")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f'{where}: want an object such as {{"prompt": "..."}}')
    turns = fields.get("messages", [{"role": "user", "content": fields.get("prompt")}])
    if not _are_turns(turns):
        raise InputError(
            f'{where}: want {{"prompt": TEXT}} or {{"messages": [{{"role": ..., "content": TEXT}}, ...]}}'
        )
    given = fields.get("id")
    if given is not None and not isinstance(given, str | int):
        raise InputError(f'{where}: "id" is neither a text nor a whole number')
    said = tuple({"role": t["role"], "content": t["content"]} for t in turns)
    return Prompt(number, said, given, _images(path, where, fields.get("image", [])))


def _images(path: Path, where: str, given: Any) -> tuple[Path, ...]:  # noqa: ANN401 - whatever JSON holds
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) and "\0" not in name for name in names):
        raise InputError(f'{where}: "image" is neither a file nor a list of files')
    if len(names) > MOST_IMAGES:
        raise InputError(f"{where}: {len(names)} images: want at most {MOST_IMAGES} in one prompt")
    found = tuple(path.parent / name for name in names)
    for file in found:
        if not file.is_file():
            raise InputError(f"{where}: {file}: no such image")
    return found


def _are_turns(turns: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
            and turn["content"]
            for turn in turns
        )
    )


class Answers:
    """The file of answers, open to append: a batch is on disk before the next begins."""

    def __init__(self, path: Path, prompts: Sequence[Prompt]) -> None:
        """Go on after what is whole in `path`; a line that a kill cut short is dropped.

        Raises InputError where `path` holds answers to other prompts, or cannot be written.
        """
        self.path = path
        self.done: set[int] = set()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            self._resume({prompt.index: prompt.digest for prompt in prompts})
        except BaseException:
            self._file.close()
            raise

    def _resume(self, digests: Mapping[int, str]) -> None:
        whole = 0
        self._file.seek(0)
        for line in self._file:
            index = _answered(line, digests)
            if index is None and line.endswith(b"\n"):
                raise InputError(
                    f"{self.path}: holds something else than answers to these prompts; give another -o, or "
                    "remove it"
                )
            if index is None:
                break
            self.done.add(index)
            whole += len(line)
        self._file.truncate(whole)

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, answered: Sequence[tuple[Prompt, Mapping[str, object]]]) -> None:
        """Append the answers and wait until they are on disk; raises FaultError where they cannot be."""
        lines = (
            {"index": prompt.index, "id": prompt.id, "prompt_sha256": prompt.digest, **answer}
            for prompt, answer in answered
        )
        try:
            self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise FaultError(
                f"{self.path}: cannot be written: {error.strerror}; what is in it stays, run again to go on"
            ) from error
        self.done.update(prompt.index for prompt, _ in answered)


def _answered(line: bytes, digests: Mapping[int, str]) -> int | None:
    """Return the index of the prompt that `line` answers, None if it is no answer to one of them."""
    try:
        fields = json.loads(line)
        index = fields["index"]
        return index if digests.get(index) == fields["prompt_sha256"] and line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
