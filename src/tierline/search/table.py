"""Columns of rows, as numpy arrays; text as codes into a list of names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["int", "float", "bool", "text"]
_DTYPES: Mapping[Kind, Any] = {"int": np.int64, "float": np.float64, "bool": np.int8, "text": np.int32}


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one kind: floats with NaN for what is not known, ints and bools with `known` False there.

    Text is a code into `names`, -1 for none. Bools are 0 or 1.
    """

    kind: Kind
    values: Array
    known: Array | None = None
    names: tuple[str, ...] = ()

    def cells(self) -> list[Any]:
        """Return the values as Python's own, None for what is not known."""
        found = self.values.tolist()
        if self.kind == "text":
            return [self.names[code] if code >= 0 else None for code in found]
        if self.kind == "float":
            return [None if value != value else value for value in found]
        cast = bool if self.kind == "bool" else int
        if self.known is None:
            return [cast(value) for value in found]
        return [
            cast(value) if known else None for value, known in zip(found, self.known.tolist(), strict=True)
        ]


Table = Mapping[str, Column]


class Sheet:
    """A table that is filled in by parts: nothing is known of a cell until it is put there."""

    def __init__(self, columns: Mapping[str, Kind], rows: int) -> None:
        self._kinds, self._rows = columns, rows
        self._values = {
            name: np.full(rows, np.nan if kind == "float" else -1, dtype=_DTYPES[kind])
            for name, kind in columns.items()
        }
        self._known = {
            name: np.zeros(rows, dtype=bool) for name, kind in columns.items() if kind in ("int", "bool")
        }
        self._names: dict[str, dict[str, int]] = {
            name: {} for name, kind in columns.items() if kind == "text"
        }

    def put(self, name: str, rows: Array | slice, values: Any) -> None:  # noqa: ANN401 - scalar or array
        """Set cells to one value, or each to its own; None is not known."""
        if values is None:
            return
        if name in self._names:
            values = self.code(name, values)
        self._values[name][rows] = values
        if name in self._known:
            self._known[name][rows] = True

    def put_codes(self, name: str, rows: Array | slice, codes: Array, names: Sequence[str]) -> None:
        """Set cells of text by codes into `names`."""
        self._values[name][rows] = np.array([self.code(name, text) for text in names], dtype=np.int32)[codes]

    def code(self, name: str, text: str) -> int:
        """Return the code of a text in a column, a new one where it is new."""
        return self._names[name].setdefault(text, len(self._names[name]))

    def table(self) -> dict[str, Column]:
        """Return the table."""
        return {
            name: Column(kind, self._values[name], self._known.get(name), tuple(self._names.get(name, ())))
            for name, kind in self._kinds.items()
        }
