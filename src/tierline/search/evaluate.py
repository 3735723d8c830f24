"""The rows of a sweep, a chunk at a time: any chunk can be evaluated anywhere, and always gives the same."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tierline.cost.amount import Amount
from tierline.errors import TierlineError
from tierline.models.workload import Workload
from tierline.probe.open import open_any_model
from tierline.search.axes import Axis, Space
from tierline.search.case import Case
from tierline.search.counts import is_valid, workload_of
from tierline.search.options import simulated_options
from tierline.search.points import put_points
from tierline.search.rows import PLANNED, SIMULATED, put_row
from tierline.search.table import Array, Column, Kind, Sheet

_MOST_CASES = 64


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the rows of a space; `phases` are those of its models, a column each."""

    space: Space
    phases: tuple[str, ...]

    @classmethod
    def of(cls, space: Space) -> "Evaluator":
        """Return the evaluator of a space; models that cannot be opened have rows that say so."""
        found: dict[str, None] = {}
        for axis in space.axes:
            for name in axis.values if axis.option == "model" else ():
                try:
                    found.update(dict.fromkeys(phase.name for phase in open_any_model(str(name)).phases))
                except (TierlineError, OSError):
                    continue
        return cls(space, tuple(found))

    @property
    def simulates(self) -> bool:
        """Whether rows are simulated, and not only planned."""
        return any(axis.option in simulated_options() for axis in self.space.axes)

    @cached_property
    def columns(self) -> dict[str, Kind]:
        """The columns in order and their kinds."""
        found: dict[str, Kind] = {"row": "int"}
        found |= {axis.column: "int" if axis.is_count else "text" for axis in self.space.axes}
        found |= PLANNED
        found |= {f"{name}_s": "float" for name in self.phases}
        found |= SIMULATED if self.simulates else {}
        return {**found, "reason": "text"}

    @cached_property
    def _cases(self) -> "OrderedDict[tuple[int, ...], Case | str]":
        return OrderedDict()

    def evaluate(self, start: int, stop: int) -> dict[str, Column]:
        """Return the rows from `start` until `stop`."""
        indices = self.space.indices(start, stop)
        sheet = Sheet(self.columns, stop - start)
        everything = slice(None)
        sheet.put("row", everything, np.arange(start, stop))
        for axis in self.space.axes:
            index = indices[axis.column]
            if axis.is_count:
                sheet.put(axis.column, everything, np.asarray(axis.values)[index])
            else:
                sheet.put_codes(axis.column, everything, index, [str(value) for value in axis.values])
        for chosen, rows in self._groups(indices, stop - start):
            self._put_group(chosen, indices, rows, sheet)
        return sheet.table()

    def _groups(self, indices: Mapping[str, Array], count: int) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Yield the indices of the values of the outer axes, and the rows that have them."""
        key = np.zeros(count, dtype=np.int64)
        for axis in self.space.outer:
            key = key * len(axis) + indices[axis.column]
        codes, firsts, inverse = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(codes) + 1))
        for i, first in enumerate(firsts):
            chosen = tuple(int(indices[axis.column][first]) for axis in self.space.outer)
            yield chosen, order[bounds[i] : bounds[i + 1]]

    def _put_group(
        self, chosen: tuple[int, ...], indices: Mapping[str, Array], rows: Array, sheet: Sheet
    ) -> None:
        case = self._case(chosen)
        if isinstance(case, str):
            sheet.put("reason", rows, case)
            return
        counts = {axis.option: _values(axis, indices[axis.column][rows]) for axis in self.space.counts}
        _put_counts(case, counts, rows, sheet)

    def _case(self, chosen: tuple[int, ...]) -> Case | str:
        """Return the case of these values, or why there is none; the last used are kept."""
        if chosen not in self._cases:
            given: dict[str, list[str]] = {}
            for axis, index in zip(self.space.outer, chosen, strict=True):
                given.setdefault(axis.option, []).append(axis.text(index))
            try:
                case = Case(given)
                _ = case.weights, case.options  # what is wrong with them is wrong with every row
                self._cases[chosen] = case
            except (TierlineError, OSError) as error:
                self._cases[chosen] = str(error)
            if len(self._cases) > _MOST_CASES:
                self._cases.popitem(last=False)
        self._cases.move_to_end(chosen)
        return self._cases[chosen]


def table_of(case: Case, counts: Mapping[str, Amount], rows: int) -> dict[str, Column]:
    """Return the rows of one case for arrays of counts, or scalars: the columns of its plan."""
    phases: dict[str, Kind] = {f"{phase.name}_s": "float" for phase in case.model.phases}
    sheet = Sheet({**PLANNED, **phases, "reason": "text"}, rows)
    _put_counts(case, counts, np.arange(rows), sheet)
    return sheet.table()


def _put_counts(case: Case, counts: Mapping[str, Amount], rows: Array, sheet: Sheet) -> None:
    valid = is_valid(counts, len(rows))
    for i in np.flatnonzero(~valid):
        sheet.put("reason", rows[[i]], _why_not({n: _at(v, i) for n, v in counts.items()}))
    members = np.flatnonzero(valid)
    if len(members):
        counts = {n: v[members] if isinstance(v, np.ndarray) else v for n, v in counts.items()}
        _put_valid(case, counts, rows[members], sheet)


def _put_valid(case: Case, counts: Mapping[str, Amount], rows: Array, sheet: Sheet) -> None:
    try:
        if case.in_arrays:
            put_points(case, workload_of(case.model, counts), rows, sheet)
            return
    except TierlineError as error:
        sheet.put("reason", rows, str(error))
        return
    for i, row in enumerate(rows):
        one = {n: _at(v, i) for n, v in counts.items()}
        try:
            put_row(case, workload_of(case.model, one), int(row), sheet)
        except TierlineError as error:
            sheet.put("reason", np.array([row]), str(error))


def _values(axis: Axis, index: Array) -> Amount:
    return int(axis.values[0]) if len(axis) == 1 else np.asarray(axis.values)[index]


def _at(value: Amount, i: Amount) -> Amount:
    return int(value[i]) if isinstance(value, np.ndarray) else value


def _why_not(counts: Mapping[str, int]) -> str:
    try:
        Workload.of(**counts)
    except TierlineError as error:
        return str(error)
    raise AssertionError(f"{counts} make a workload")  # is_valid and Workload.of disagree
