"""Axes: the values that options take, written as lists and ranges, and the rows that they span."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tierline.errors import InputError
from tierline.formats.parse import parse_weights
from tierline.machines.load import machine_names
from tierline.models.catalogue import catalogue_names
from tierline.search.options import COUNTS, KEYED, flag, known_options, read_value

Ints = npt.NDArray[np.int64]

_MOST_VALUES = 2**24
_MOST_ROWS = 10**12
# Options whose own values have commas, `tp=2,pp=2`: a semicolon stands between several.
_COMMAS_WITHIN = ("parallel",)
_FORMATS = ("weights", "kv", "activations", "keep")
_ENDS = re.compile(r"([0-9.]{1,18})([A-Za-z/]*):([0-9.]{1,18})([A-Za-z/]*):([x+])([0-9.]{1,18})([A-Za-z/]*)")
_UNITS = {"context": "context_tokens", "new": "new_tokens"}


@dataclass(frozen=True)
class Axis:
    """The values of one option, or of one key of it: `ddr3.capacity` of --set, `head` of --keep.

    Counts are whole numbers in an array, everything else is text as it is written.
    """

    option: str
    key: str
    values: Sequence[str] | Ints

    @property
    def column(self) -> str:
        """The name of its column: with the unit where the values have none of their own."""
        name = "set" if self.option == "overrides" else self.option
        return f"{name}.{self.key}" if self.key else _UNITS.get(self.option, self.option)

    @property
    def is_count(self) -> bool:
        """Whether its values are numbers that vary inside one costing."""
        return self.option in COUNTS

    def text(self, index: int) -> str:
        """Return a value as an option is written: with its key where it has one."""
        value = str(self.values[index])
        return f"{self.key}={value}" if self.key else value

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Space:
    """All combinations of the values of some axes, in order: the last axis varies fastest.

    A row's number is its place in that order, and never depends on how the rows are cut into chunks.
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        names = [axis.column for axis in self.axes]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{name} is given twice: write its values as a list, a,b,c")
        if self.rows > _MOST_ROWS:
            raise InputError(f"{self.rows:,} rows are more than the {_MOST_ROWS:,} that a sweep may have")

    @cached_property
    def rows(self) -> int:
        """How many combinations there are."""
        return prod(len(axis) for axis in self.axes)

    def indices(self, start: int, stop: int) -> dict[str, Ints]:
        """Return by column the index of each axis' value in the rows from `start` until `stop`."""
        left = np.arange(start, stop, dtype=np.int64)
        found: dict[str, Ints] = {}
        for axis in reversed(self.axes):
            left, found[axis.column] = np.divmod(left, len(axis))
        return found

    @property
    def outer(self) -> tuple[Axis, ...]:
        """The axes that are not counts: what has to be costed on its own."""
        return tuple(axis for axis in self.axes if not axis.is_count)

    @property
    def counts(self) -> tuple[Axis, ...]:
        """The axes that are costed as arrays."""
        return tuple(axis for axis in self.axes if axis.is_count)


def read_axes(given: Mapping[str, Sequence[str]]) -> Space:
    """Return the space that options span, by name: what each was given, once or more often.

    Raises InputError for options that are unknown and values that cannot be read, before anything is opened.
    """
    axes: list[Axis] = []
    for option, texts in given.items():
        if option not in known_options():
            raise InputError(f"{flag(option)} is no option that can be swept")
        if option not in KEYED and len(texts) > 1:
            raise InputError(f"{flag(option)} is given twice: write its values as a list, a,b,c")
        axes += (_axis(option, text) for text in texts)
    return Space(tuple(axes))


def _axis(option: str, text: str) -> Axis:
    key = ""
    if option in KEYED:
        key, equals, text = (part.strip() for part in text.partition("="))
        if not (key and equals and text):
            raise InputError(
                f"{flag(option)} {key[:40]!r}: write NAME=VALUES, such as host.capacity=16GiB,32GiB"
            )
    if option in COUNTS:
        return Axis(option, key, _counts(option, text))
    values = tuple(_texts(option, text))
    for value in values:
        if not key:
            read_value(option, value)
    return Axis(option, key, values)


def _counts(option: str, text: str) -> Ints:
    """Return the whole numbers of a list of numbers and ranges."""
    parts = [_range(option, piece) for piece in text.split(",")]
    if sum(map(len, parts)) > _MOST_VALUES:
        raise InputError(f"{flag(option)}: more than {_MOST_VALUES:,} values")
    numbers: list[Any] = []
    for part in parts:
        if isinstance(part, range):
            numbers.append(np.arange(part.start, part.stop, part.step, dtype=np.int64))
        else:
            numbers.append(np.array([_whole(option, value) for value in part], dtype=np.int64))
    return np.concatenate(numbers)


def _whole(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(f"{flag(option)} {text[:40]!r}: want a whole number, or a range such as 1:64:x2")
    return int(text)


def _texts(option: str, text: str) -> Iterator[str]:
    """Yield the values of a list in which ranges of quantities may stand, `16GiB:64GiB:+16GiB`."""
    if option in ("model", "on") and text == "all":
        yield from catalogue_names() if option == "model" else machine_names()
        return
    if option == "model" and Path(text).exists():  # a path may have commas
        yield text
        return
    if option in _COMMAS_WITHIN:
        yield from text.split(";")
        return
    for piece in _pieces(text) if option in _FORMATS else text.split(","):
        if not piece:
            raise InputError(f"{flag(option)} {text[:60]!r}: a value of the list is empty")
        yield from [piece] if option in _FORMATS else map(str, _range(option, piece))


def _pieces(text: str) -> list[str]:
    """Return formats apart; a comma inside one, as in `int8:group=64,scale=bf16`, does not part it."""
    found: list[str] = []
    for piece in text.split(","):
        if found and ":" in found[-1] and not _is_format(piece):
            found[-1] = f"{found[-1]},{piece}"
        else:
            found.append(piece)
    return found


def _is_format(text: str) -> bool:
    if text in ("stored", "none"):
        return True
    try:
        parse_weights(text.partition(":")[0])
    except InputError:
        return False
    return True


def _range(option: str, text: str) -> Sequence[str] | range:
    """Return the values of `FIRST:LAST:xFACTOR` or `FIRST:LAST:+STEP` up to LAST, or `text` itself."""
    found = _ENDS.fullmatch(text)
    if found is None:
        return [text]
    first_text, unit, last_text, last_unit, how, by_text, by_unit = found.groups()
    if unit != last_unit or by_unit != (unit if how == "+" else ""):
        raise InputError(
            f"{flag(option)} {text}: write both ends and the step in one unit, 16GiB:64GiB:+16GiB"
        )
    try:
        first, last, by = Decimal(first_text), Decimal(last_text), Decimal(by_text)
    except ArithmeticError:
        raise InputError(f"{flag(option)} {text}: cannot be read as numbers") from None
    if last < first or by <= (how == "x") or (how == "x" and not first):
        raise InputError(f"{flag(option)} {text}: want FIRST:LAST:+STEP or FIRST:LAST:xFACTOR that grows")
    if how == "+" and (last - first) / by >= _MOST_VALUES:
        raise InputError(f"{flag(option)} {text}: more than {_MOST_VALUES:,} values")
    if how == "+" and not unit and all(x == int(x) for x in (first, by)):
        return range(int(first), int(last) + 1, int(by))
    values: list[str] = []
    while first <= last and len(values) <= _MOST_VALUES:
        values.append(f"{first.normalize():f}{unit}")
        first = first * by if how == "x" else first + by
    return values
