"""Plans of many workloads at once: every figure of a row is the one that its own plan would have.

The formulas are those of cost/ and plan/, evaluated on arrays. What is not a formula is done once per kind of
row: rows with the same counts at zero, the same main phase and the same placement go together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tierline.cost.amount import Amount
from tierline.cost.phase_cost import phase_cost
from tierline.models.description import Phase
from tierline.models.workload import Workload
from tierline.plan.build import footprint_of
from tierline.plan.lodging import main_phase
from tierline.plan.phases import TOKEN_PHASES, has_rows, link_traffic, seconds
from tierline.plan.residency import allowed_bytes
from tierline.search.case import Case, Lodged
from tierline.search.table import Array, Sheet

# Beyond this, products of int64 could overflow: rows are then costed in Python's own integers.
_SAFE = 2**60
_MOST_BYTES = 2**63 - 1


def put_points(case: Case, workload: Workload, rows: Array, sheet: Sheet) -> None:
    """Put what each workload costs into its row; `workload` holds arrays of as many elements, or scalars.

    Every workload has to be valid.
    """
    values = workload.values()
    for kind, members in _kinds(case, values, len(rows)):
        chosen = {name: _of(value, members) for name, value in values.items()}
        _put_kind(case, {**chosen, **kind}, rows[members], sheet)


def _kinds(case: Case, values: Mapping[str, Amount], count: int) -> Iterator[tuple[dict[str, int], Array]]:
    """Yield rows that have the same counts at zero and the same main phase, with those zeros as scalars."""
    varying = [name for name, value in values.items() if isinstance(value, np.ndarray)]
    key = np.zeros(count, dtype=np.int64)
    for name in varying:
        key = 2 * key + (values[name] == 0)
    passes = [np.broadcast_to(phase.passes.evaluate(values), count) for phase in case.model.phases]
    if passes:
        last = np.argmax(np.stack(passes[::-1]), axis=0)  # the last of equals is the main one
        key = key * len(passes) + last
    for code in np.unique(key):
        members = np.flatnonzero(key == code)
        zeros = {name: 0 for name in varying if values[name][members[0]] == 0}
        yield zeros, members


def _of(value: Amount, members: Array) -> Amount:
    return value[members] if isinstance(value, np.ndarray) else value


def _put_kind(case: Case, values: dict[str, Amount], rows: Array, sheet: Sheet) -> None:
    machine = case.asked.machine
    first = {
        name: int(value.flat[0]) if isinstance(value, np.ndarray) else value for name, value in values.items()
    }
    if _largest(case, values) >= _SAFE:
        values = {n: v.astype(object) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    held = footprint_of(case.model, machine, case.weights, values, case.asked.costing, case.program_bytes)
    total = np.broadcast_to(held.total_bytes, len(rows))
    if total.max() > _MOST_BYTES:
        rows, values = _without_absurd(values, total, rows, sheet)
        if len(rows):
            _put_kind(case, values, rows, sheet)
        return
    allowed = allowed_bytes(machine.fast)
    parts = {
        "weights_bytes": held.weights_bytes,
        "kv_cache_bytes": held.kv_cache_bytes,
        "activation_bytes": held.activation_bytes,
        "total_bytes": total,
        "short_bytes": np.maximum(0, total - allowed),
    }
    for name, amount in parts.items():
        sheet.put(name, rows, amount)
    room = np.maximum(0, allowed - np.broadcast_to(held.others_bytes, len(rows))).astype(np.int64)
    if case.resident_bytes is not None:
        room = np.minimum(room, case.resident_bytes)
    phase = main_phase(case.model, first)
    for lodged, members in _lodged(case, phase, room):
        within = {name: _of(value, members) for name, value in values.items()}
        piece = _Piece(case, lodged, within, first, rows[members])
        piece.put(_of(total, members) <= allowed, sheet)


def _without_absurd(
    values: dict[str, Amount], total: Array, rows: Array, sheet: Sheet
) -> tuple[Array, dict[str, Amount]]:
    """Take out the rows whose footprint no number of bytes holds, and say so in them."""
    absurd = total > _MOST_BYTES
    sheet.put("reason", rows[absurd], "a footprint of more than 8 EiB")
    members = np.flatnonzero(~absurd)
    return rows[members], {name: _of(value, members) for name, value in values.items()}


def _largest(case: Case, values: Mapping[str, Amount]) -> int:
    """Return the largest total of any row: every cost grows with every count."""
    most = {n: int(v.max()) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    costs = [phase_cost(phase, case.weights, most, case.asked.costing) for phase in case.model.phases]
    held = footprint_of(case.model, case.asked.machine, case.weights, most, case.asked.costing, 0)
    return max([held.total_bytes, *(int(c.flop) for c in costs), *(int(c.traffic_bytes) for c in costs)])


def _lodged(case: Case, main: Phase | None, room: Array) -> Iterator[tuple[Lodged, Array]]:
    """Yield the placements that rows have, each with those rows."""
    lowest, highest = int(room.min()), int(room.max())
    first = case.lodged(main, lowest)
    if highest in first.span:
        yield first, np.arange(len(room))
        return
    order = np.argsort(room, kind="stable")
    ranked = room[order]
    start = 0
    while start < len(order):
        lodged = case.lodged(main, int(ranked[start]))
        high = lodged.span.high
        stop = len(order) if high is None else int(np.searchsorted(ranked, high))
        yield lodged, order[start:stop]
        start = stop


@dataclass(frozen=True)
class _PhasePoints:
    """A phase of all rows of a piece: seconds (NaN where not known), and which load binds."""

    time_s: Amount
    known: bool
    passes: Amount
    token_rows: Amount
    tokens: Amount
    bound: Array
    bounds: tuple[str, ...]
    kinds: tuple[str, ...]


class _Piece:
    """Rows that share a placement."""

    def __init__(
        self, case: Case, lodged: Lodged, values: Mapping[str, Amount], first: Mapping[str, int], rows: Array
    ) -> None:
        self._case, self._lodged, self._rows = case, lodged, rows
        self._values = values
        self._phases: dict[str, _PhasePoints] = {}
        for phase in case.model.phases:
            if phase.passes.evaluate(first) and has_rows(phase, first, case.weights):
                self._phases[phase.name] = self._points(phase)

    def put(self, within: Array, sheet: Sheet) -> None:
        """Put everything that depends on the placement."""
        residency, rows = self._lodged.setting.residency, self._rows
        sheet.put("strategy", rows, residency.strategy)
        sheet.put("fits", rows, within & (residency.strategy == "resident"))
        sheet.put("pinned_bytes", rows, residency.pinned_bytes)
        sheet.put("streamed_bytes", rows, residency.streamed_bytes)
        sheet.put("link", rows, residency.link)
        for name, found in self._phases.items():
            sheet.put(f"{name}_s", rows, found.time_s)
        for name, members in self._mains():
            self._put_main(name, members, sheet)
        sheet.put("time_to_first_token_s", rows, self._first_token_s())
        sheet.put("actions_per_s", rows, self._actions_per_s())

    def _mains(self) -> Iterator[tuple[str, Array | slice]]:
        """Yield the phases with the most passes, the last of equals, and in which rows they are that."""
        names = list(reversed(self._phases))
        passes = [self._phases[name].passes for name in names]
        if all(isinstance(count, int) for count in passes):
            if names:
                yield max(names, key=lambda name: int(self._phases[name].passes)), slice(None)
            return
        most = np.argmax(np.stack([np.broadcast_to(count, len(self._rows)) for count in passes]), axis=0)
        for i in np.unique(most):
            yield names[i], slice(None) if len(names) == 1 else np.flatnonzero(most == i)

    def _put_main(self, name: str, members: Array | slice, sheet: Sheet) -> None:
        main, rows = self._phases[name], self._rows[members]

        def of(value: Amount) -> Amount:
            return value[members] if isinstance(value, np.ndarray) else value

        sheet.put("phase", rows, name)
        sheet.put("pass_s", rows, of(main.time_s / main.passes))
        if name in TOKEN_PHASES:
            sheet.put("tokens_per_s", rows, of(self._values["batch"] * main.token_rows / main.time_s))
        if main.bounds:
            sheet.put_codes("bound", rows, main.bound[members], main.bounds)
            sheet.put_codes("rate_kind", rows, main.bound[members], main.kinds)

    def _first_token_s(self) -> Amount | None:
        if not {"decode", "denoise"} & set(self._phases):
            return None
        return self._total(name for name in self._phases if name != "decode")

    def _actions_per_s(self) -> Amount | None:
        denoise, total = self._phases.get("denoise"), self._total(iter(self._phases))
        if denoise is None or total is None:
            return None
        return self._values["batch"] * denoise.tokens / total

    def _total(self, names: Iterator[str]) -> Amount | None:
        total: Amount = 0.0
        for name in names:
            if not self._phases[name].known:
                return None
            total = total + self._phases[name].time_s
        return total

    def _points(self, phase: Phase) -> _PhasePoints:
        setting = self._lodged.setting
        machine = setting.machine
        cost = phase_cost(phase, setting.weights, self._values, setting.costing)
        count = len(self._rows)
        times: list[Any] = []
        bounds: list[str] = []
        kinds: list[str] = []
        possible = setting.residency.strategy != "impossible"
        for name, traffic in link_traffic(phase, cost, setting).items():
            rate = machine.fast.rate if name == setting.port else machine.link(name).rate
            times.append(seconds(traffic, rate) if possible else None)
            bounds.append(f"link:{name}")
            kinds.append(rate.kind if rate else "peak")
        known = all(time is not None for time in times)
        computed = seconds(cost.flop, setting.compute) if possible else None
        if computed is not None:
            times.append(computed)
            bounds.append("compute")
            kinds.append(setting.compute.kind if setting.compute else "peak")
        token_rows = sum(group.passes * group.tokens for group in cost.groups)
        tokens = cost.groups[0].tokens
        for group in cost.groups[1:]:
            tokens = np.maximum(tokens, group.tokens)
        if not known or not times:
            return _PhasePoints(np.nan, False, cost.passes, token_rows, tokens, np.zeros(0), (), ())
        stacked = np.stack([np.broadcast_to(cast("Any", time), count) for time in times]).astype(np.float64)
        time_s = sum(stacked) if machine.shared_memory else stacked.max(axis=0)
        return _PhasePoints(
            time_s,
            computed is not None,
            cost.passes,
            token_rows,
            tokens,
            np.argmax(stacked, axis=0),
            tuple(bounds),
            tuple(kinds),
        )
