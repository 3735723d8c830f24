"""Plans of many workloads at once: every figure of a row is the one that its own plan would have.

The formulas are those of cost/ and plan/, evaluated on arrays. What is not a formula is done once per kind of
row: rows with the same counts at zero, the same main phase and the same placement go together.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from tierline.cost.amount import Amount
from tierline.cost.phase_cost import phase_cost
from tierline.models.description import Phase
from tierline.models.workload import Workload
from tierline.plan.build import footprint_of
from tierline.plan.lodging import main_phase
from tierline.plan.residency import allowed_bytes
from tierline.search.case import Case, Lodged
from tierline.search.piece import Piece
from tierline.search.table import Array, Sheet

# Totals beyond this are computed in Python's own integers: int64 ends at 2**63, and sums over passes that
# differ double what they halve again.
_SAFE = 2**62
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
    if _largest(case, values) >= _safe(case) and not _in_python(values):
        _put_large(case, values, rows, sheet)
        return
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
    for lodgings, places, members in _classes(case, main_phase(case.model, first), room):
        within = {name: _of(value, members) for name, value in values.items()}
        piece = Piece(case, lodgings, places, within, first, rows[members])
        piece.put(_of(total, members) <= allowed, sheet)


def _safe(case: Case) -> int:
    costing = case.asked.costing
    return _SAFE // 2 if costing.average_decode or costing.prefill_chunk else _SAFE


def _in_python(values: Mapping[str, Amount]) -> bool:
    return any(isinstance(value, np.ndarray) and value.dtype == object for value in values.values())


def _put_large(case: Case, values: dict[str, Amount], rows: Array, sheet: Sheet) -> None:
    """Cost those rows in Python's integers whose totals int64 could not hold, and the others apart."""
    real = {n: v.astype(np.float64) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    costs = [phase_cost(phase, case.weights, real, case.asked.costing) for phase in case.model.phases]
    held = footprint_of(case.model, case.asked.machine, case.weights, real, case.asked.costing, 0)
    most = np.zeros(len(rows))
    for total in (held.total_bytes, *(c.flop for c in costs), *(c.traffic_bytes for c in costs)):
        most = np.maximum(most, total)
    small = most < 0.99 * _safe(case)  # the estimate is rounded
    for members, kind in ((np.flatnonzero(small), None), (np.flatnonzero(~small), object)):
        if len(members):
            chosen = {name: _of(value, members) for name, value in values.items()}
            if kind:
                chosen = {n: v.astype(kind) if isinstance(v, np.ndarray) else v for n, v in chosen.items()}
            _put_kind(case, chosen, rows[members], sheet)


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


def _classes(case: Case, main: Phase | None, room: Array) -> Iterator[tuple[list[Lodged], Array, Array]]:
    """Yield placements that are costed together: the placements, and of their rows the place in that list.

    The third array are those rows. Placements that stream over the same links go together.
    """
    lodgings, which = _lodged(case, main, room)
    classes: dict[object, list[int]] = {}
    for i, lodged in enumerate(lodgings):
        classes.setdefault(lodged.alike if case.whole_reads else i, []).append(i)
    if len(classes) == 1:
        yield lodgings, which, np.arange(len(room))
        return
    for chosen in classes.values():
        place = np.full(len(lodgings), -1)
        place[chosen] = np.arange(len(chosen))
        members = np.flatnonzero(place[which] >= 0)
        yield [lodgings[i] for i in chosen], place[which[members]], members


def _lodged(case: Case, main: Phase | None, room: Array) -> tuple[list[Lodged], Array]:
    """Return the placements that rows have, and for each row which."""
    which = np.zeros(len(room), dtype=np.int64)
    lodgings = [case.lodged(main, int(room.min()))]
    if int(room.max()) in lodgings[0].span:
        return lodgings, which
    order = np.argsort(room, kind="stable")
    ranked = room[order]
    start = 0
    while True:
        high = lodgings[-1].span.high
        stop = len(order) if high is None else int(np.searchsorted(ranked, high))
        which[order[start:stop]] = len(lodgings) - 1
        if stop == len(order):
            return lodgings, which
        start = stop
        lodgings.append(case.lodged(main, int(ranked[start])))
