"""The `[calibration]` table of a machine file."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tierline.errors import InputError
from tierline.machines.calibration import Calibration, ExpansionRate, Measured, ProductRate, ReadRate
from tierline.machines.number import (
    Parser,
    parse_count,
    read_quantity,
    read_sourced,
    reject_unknown,
    shown,
)
from tierline.units import parse_bytes, parse_operation_rate, parse_rate, parse_seconds

_SINGLES = ("memory_read", "memory_copy", "call")
_LISTS = ("reads", "products", "expansions")
_FIGURE = ("alone", "overlapped")
_MOST_ENTRIES = 1024
_MOST_LETTERS = 80


def read_calibration(entry: object, where: str, known_sources: Collection[str] | None) -> Calibration | None:
    """Return what the table `entry` holds, None where there is no table.

    Raises InputError, beginning with `where`, for an unknown key and a figure without unit, kind or source.
    """
    if entry is None:
        return None
    reader = _Reader(f"{where}: calibration", known_sources)
    table = reader.table(entry, "")
    reject_unknown(table, (*_SINGLES, *_LISTS), reader.where)
    parsers: dict[str, Parser] = {"memory_read": parse_rate, "memory_copy": parse_rate, "call": parse_seconds}
    singles = {name: reader.figure(table[name], parsers[name], name) for name in _SINGLES if name in table}
    return Calibration(
        memory_read=singles.get("memory_read"),
        memory_copy=singles.get("memory_copy"),
        call=singles.get("call"),
        reads=tuple(reader.read(e, at) for e, at in reader.entries(table, "reads")),
        products=tuple(reader.product(e, at) for e, at in reader.entries(table, "products")),
        expansions=tuple(reader.expansion(e, at) for e, at in reader.entries(table, "expansions")),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the parts of one table; every error begins with `where`."""

    where: str
    known_sources: Collection[str] | None

    def table(self, entry: object, at: str) -> dict[str, object]:
        if not isinstance(entry, dict):
            raise InputError(f"{self._at(at)}: has to be a table, not {shown(entry)}")
        return entry

    def entries(self, table: dict[str, object], name: str) -> list[tuple[dict[str, object], str]]:
        found = table.get(name, [])
        if not isinstance(found, list) or len(found) > _MOST_ENTRIES:
            raise InputError(f"{self._at(name)}: write [[calibration.{name}]], at most {_MOST_ENTRIES} times")
        return [(self.table(e, f"{name}[{i}]"), f"{name}[{i}]") for i, e in enumerate(found)]

    def figure(self, entry: object, parser: Parser, at: str) -> Measured:
        table = self.table(entry, at)
        reject_unknown(table, _FIGURE, self._at(at))
        alone, overlapped = (
            read_sourced(table[key], parser, f"{self._at(at)}.{key}", self.known_sources)
            if key in table
            else None
            for key in _FIGURE
        )
        if alone is None:
            raise InputError(f"{self._at(at)}: has no figure alone")
        return Measured(alone, overlapped)

    def read(self, entry: dict[str, object], at: str) -> ReadRate:
        rate = self._rate(entry, ("request", "readers"), parse_rate, at)
        request_bytes = int(self._quantity(entry, "request", parse_bytes, at))
        return ReadRate(request_bytes, int(self._quantity(entry, "readers", parse_count, at)), rate)

    def product(self, entry: dict[str, object], at: str) -> ProductRate:
        rate = self._rate(entry, ("format", "compute", "rows"), parse_operation_rate, at)
        rows = int(self._quantity(entry, "rows", parse_count, at))
        return ProductRate(self._text(entry, "format", at), self._text(entry, "compute", at), rows, rate)

    def expansion(self, entry: dict[str, object], at: str) -> ExpansionRate:
        rate = self._rate(entry, ("format", "compute"), parse_rate, at)
        return ExpansionRate(self._text(entry, "format", at), self._text(entry, "compute", at), rate)

    def _rate(self, entry: dict[str, object], keys: Sequence[str], parser: Parser, at: str) -> Measured:
        reject_unknown(entry, (*keys, *_FIGURE), self._at(at))
        return self.figure({k: v for k, v in entry.items() if k in _FIGURE}, parser, at)

    def _quantity(self, entry: dict[str, object], key: str, parser: Parser, at: str) -> float:
        return read_quantity(entry.get(key), parser, f"{self._at(at)}.{key}")

    def _text(self, entry: dict[str, object], key: str, at: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= _MOST_LETTERS:
            raise InputError(f"{self._at(at)}.{key} is {shown(value)}; write the name of a number format")
        return value

    def _at(self, at: str) -> str:
        return f"{self.where}.{at}" if at else self.where
