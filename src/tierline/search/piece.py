"""Rows whose weights stream over the same links, or not at all: their times, all at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from tierline.cost.amount import Amount
from tierline.cost.layer_pass import LayerPass
from tierline.cost.passes import PassGroup
from tierline.cost.phase_cost import PhaseCost, phase_cost
from tierline.models.description import Phase
from tierline.plan.phases import TOKEN_PHASES, has_rows, link_traffic, seconds
from tierline.search.case import Case, Lodged
from tierline.search.table import Array, Sheet


@dataclass(frozen=True)
class _PhasePoints:
    """A phase of all rows: seconds (NaN where not known), whether all of them are, and which load binds."""

    time_s: Amount
    known: bool
    passes: Amount
    token_rows: Amount
    tokens: Amount
    bound: Array
    bounds: tuple[str, ...]
    kinds: tuple[str, ...]


class Piece:
    """Rows of a case with the placements that they have; `places` says for each row which of `lodgings`."""

    def __init__(
        self,
        case: Case,
        lodgings: Sequence[Lodged],
        places: Array,
        values: Mapping[str, Amount],
        first: Mapping[str, int],
        rows: Array,
    ) -> None:
        self._lodgings, self._places, self._rows = lodgings, places, rows
        self._setting = lodgings[0].setting
        self._values = values
        self._phases: dict[str, _PhasePoints] = {}
        for phase in case.model.phases:
            if phase.passes.evaluate(first) and has_rows(phase, first, case.weights):
                self._phases[phase.name] = self._points(phase)

    def put(self, within: Array, sheet: Sheet) -> None:
        """Put everything that depends on the placement; `within` says whether the footprint is allowed."""
        residency, rows = self._setting.residency, self._rows
        sheet.put("strategy", rows, residency.strategy)
        sheet.put("fits", rows, within & (residency.strategy == "resident"))
        sheet.put(
            "pinned_bytes", rows, self._each([x.setting.residency.pinned_bytes for x in self._lodgings])
        )
        sheet.put("streamed_bytes", rows, self._each([x.streamed_bytes for x in self._lodgings]))
        sheet.put("link", rows, residency.link)
        for name, found in self._phases.items():
            sheet.put(f"{name}_s", rows, found.time_s)
        for name, members in self._mains():
            self._put_main(name, members, sheet)
        sheet.put("time_to_first_token_s", rows, self._first_token_s())
        sheet.put("actions_per_s", rows, self._actions_per_s())

    def _each(self, by_lodging: Sequence[int]) -> Amount:
        """Return for each row what its placement has."""
        if len(by_lodging) == 1:
            return by_lodging[0]
        return np.array(by_lodging, dtype=np.int64)[self._places]

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
            members = np.flatnonzero(most == i)
            yield names[i], slice(None) if len(members) == len(most) else members

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
        setting = self._setting
        machine = setting.machine
        cost = phase_cost(phase, setting.weights, self._values, setting.costing)
        possible = setting.residency.strategy != "impossible"
        loads: list[tuple[str, str, Any]] = []
        for name, traffic in self._traffic(phase, cost).items():
            rate = machine.fast.rate if name == setting.port else machine.link(name).rate
            loads.append((f"link:{name}", rate.kind if rate else "peak", seconds(traffic, rate)))
        known = possible and all(time is not None for _, _, time in loads)
        computed = seconds(cost.flop, setting.compute)
        if computed is not None and setting.compute is not None:
            loads.append(("compute", setting.compute.kind, computed))
        token_rows = sum(group.passes * group.tokens for group in cost.groups)
        tokens = cost.groups[0].tokens
        for group in cost.groups[1:]:
            tokens = np.maximum(tokens, group.tokens)
        if not known or not loads:
            return _PhasePoints(np.nan, False, cost.passes, token_rows, tokens, np.zeros(0), (), ())
        count = len(self._rows)
        times = [np.broadcast_to(cast("Any", time), count).astype(np.float64) for _, _, time in loads]
        slowest, bound = times[0], np.zeros(count, dtype=np.int8)
        for i, time in enumerate(times[1:], 1):  # the first of equals binds
            bound[time > slowest] = i
            slowest = np.maximum(slowest, time)
        names, kinds = tuple(load[0] for load in loads), tuple(load[1] for load in loads)
        time_s = sum(times) if machine.shared_memory else slowest
        return _PhasePoints(
            time_s, computed is not None, cost.passes, token_rows, tokens, bound, names, kinds
        )

    def _traffic(self, phase: Phase, cost: PhaseCost) -> dict[str, Amount]:
        """Return the bytes over each link: of whole weights by placement, of all else by row."""
        if len(self._lodgings) == 1 or not self._setting.share:
            return link_traffic(phase, cost, self._setting)
        crossed = link_traffic(phase, _rows_of(cost), self._setting)
        each, once = _whole_pass(cost, static=False), _whole_pass(cost, static=True)
        for part, times in ((each, cost.passes), (once, 1)):
            found = [x.crossing(phase, part, static=part is once) for x in self._lodgings]
            for link in dict.fromkeys(name for one in found for name in one):
                count = self._each([one.get(link, 0) for one in found])
                crossed[link] = crossed.get(link, 0) + times * count
        return crossed


def _rows_of(cost: PhaseCost) -> PhaseCost:
    """Return a phase without the weights that it reads whole."""
    return replace(
        cost,
        kinds=tuple({key: _only(kind, by_row=True) for key, kind in kinds.items()} for kinds in cost.kinds),
    )


def _whole_pass(cost: PhaseCost, *, static: bool) -> PhaseCost:
    """Return one pass with nothing but weights read whole: those of every pass, or those read once."""
    nothing = PassGroup(1, 0, 0, 0)
    kinds = {}
    for key, kind in cost.kinds[0].items():
        whole = _only(kind, by_row=False)
        kinds[key] = replace(whole, reads=whole.static_reads if static else whole.reads, static_reads=())
    return PhaseCost((nothing,), (kinds,), 0, 0, 0, 0, 0, 0)


def _only(kind: LayerPass, *, by_row: bool) -> LayerPass:
    reads, static = (tuple(r for r in x if r.by_row is by_row) for x in (kind.reads, kind.static_reads))
    return replace(kind, reads=reads, static_reads=static)
