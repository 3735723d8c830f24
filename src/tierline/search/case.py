"""One costing of a sweep: everything but the counts, opened and weighed once for all its rows."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tierline.cost.logits import with_all_logits
from tierline.cost.phase_cost import PhaseCost
from tierline.cost.weights import ModelWeights, weigh
from tierline.machines.machine import Rate
from tierline.models.description import Model, Phase
from tierline.models.workload import Workload
from tierline.plan.build import compute_rate, plan_with, selectors
from tierline.plan.lodging import Lodging
from tierline.plan.phases import Setting, link_traffic, pinned_share
from tierline.plan.plan import Plan
from tierline.plan.residency import PREFETCH_DEPTH
from tierline.scenario import Scenario, scenario
from tierline.search.options import (
    KEYED,
    PROGRAM,
    RESIDENT,
    read_bytes,
    read_value,
    scenario_options,
    simulated_options,
)
from tierline.search.tracked import Span, Tracked
from tierline.sim.options import Options, simulation_options

_MOST_LODGINGS = 20_000


@dataclass(frozen=True, slots=True)
class Lodged:
    """Where the weights live, for the capacities in `span`; `tables` are looked up and not pinned whole."""

    span: Span
    setting: Setting
    tables: tuple[str, ...]

    pinned_bytes: int
    streamed_bytes: int
    known: dict[tuple[str, bool], dict[str, int]] = field(default_factory=dict)

    @property
    def alike(self) -> object:
        """What placements have in common whose rows are costed together."""
        residency = self.setting.residency
        if residency.strategy != "streamed":
            return residency.strategy
        return residency.route, residency.link, self.tables

    def crossing(self, phase: Phase, whole: PhaseCost, *, static: bool) -> dict[str, int]:
        """Return what weights that are read `whole` move over each link in a pass of `phase`."""
        key = (phase.name, static)
        if key not in self.known:
            self.known[key] = link_traffic(phase, whole, self.setting)
        return self.known[key]


class Case:
    """A scenario whose counts are those of one row, and how its plan and its simulation are asked for.

    `given` holds the texts of each option; those that are left out are as the command line has them.
    """

    def __init__(self, given: Mapping[str, Sequence[str]]) -> None:
        values = {name: _read(name, texts) for name, texts in given.items()}
        asked = {name: value for name, value in values.items() if name in scenario_options()}
        self.simulated = any(name in simulated_options() for name in values)
        self.resident_bytes = read_bytes(given[RESIDENT][0]) if RESIDENT in given else None
        self.program_bytes = read_bytes(given[PROGRAM][0]) or 0 if PROGRAM in given else 0
        self.asked: Scenario = scenario(**asked)
        self._simulation = {name: v for name, v in values.items() if name in simulated_options()}
        self._lodged: dict[str, list[Lodged]] = {}
        self._lodgings: dict[str, Lodging] = {}

    @cached_property
    def options(self) -> Options:
        """How it is simulated."""
        return simulation_options(**self._simulation)

    @cached_property
    def model(self) -> Model:
        """The model as it is costed."""
        asked = self.asked
        if asked.precision.keep:
            asked.precision.check_selectors(selectors(asked.model))
        return with_all_logits(asked.model) if asked.costing.all_logits else asked.model

    @cached_property
    def weights(self) -> ModelWeights:
        """Its weights."""
        return weigh(self.model, self.asked.precision)

    @cached_property
    def compute(self) -> Rate | None:
        """The machine's arithmetic rate in the format of the activations."""
        return compute_rate(self.asked.machine, self.asked.precision.activations.name)[0]

    @cached_property
    def whole_reads(self) -> bool:
        """Whether what is not looked up is read whole in every pass, however many rows it has."""
        kinds = self.weights.kinds(tuple(self.weights.kinds_of))
        return not any(o.experts for kind, _ in kinds for o in kind.block.operations)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """The layers that hold tables of which rows are looked up."""
        return tuple(
            dict.fromkeys(
                read.owner or entry.layer.name
                for entry in self.weights.layers
                for reads in entry.weights.by_operation
                for read in reads
                if read.by_row
            )
        )

    @property
    def in_arrays(self) -> bool:
        """Whether its rows can be costed as arrays: not with an arena's fragmentation, nor a split."""
        costing = self.asked.costing
        return not self.simulated and not costing.buffers.arena and costing.split is None

    def plan(self, workload: Workload) -> Plan:
        """Return the plan of one workload."""
        return plan_with(
            self.asked.model,
            self.asked.machine,
            workload,
            self.asked.costing,
            resident_bytes=self.resident_bytes,
            program_bytes=self.program_bytes,
            weights=None if self.asked.costing.split else self.weights,
        )

    def lodged(self, main: Phase | None, capacity_bytes: int) -> Lodged:
        """Return where the weights live within a capacity; the same for all capacities of its span."""
        name = main.name if main else ""
        known = self._lodged.setdefault(name, [])
        place = bisect_right(known, capacity_bytes, key=lambda found: found.span.low)
        if place and capacity_bytes in known[place - 1].span:
            return known[place - 1]
        if len(known) >= _MOST_LODGINGS:
            known.clear()
            place = 0
        found = self._lodge(main, capacity_bytes)
        known.insert(place, found)
        return found

    def _lodge(self, main: Phase | None, capacity_bytes: int) -> Lodged:
        machine, costing = self.asked.machine, self.asked.costing
        tracked = Tracked.of(capacity_bytes)
        name = main.name if main else ""
        if name not in self._lodgings:
            self._lodgings[name] = Lodging(self.model, machine, self.weights, main, PREFETCH_DEPTH)
        stored, residency = self._lodgings[name].within(tracked)
        placement = replace(residency.placement, capacity_bytes=capacity_bytes)
        residency = replace(residency, placement=placement)
        share = pinned_share(stored, residency)
        setting = Setting(machine, self.weights, share, residency, costing, self.compute, machine.fast.name)
        tables = tuple(name for name in self.tables if name in share)
        return Lodged(tracked.span, setting, tables, residency.pinned_bytes, residency.streamed_bytes)


def texts(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return options with all that was given of each."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(name, []).append(text)
    return found


def _read(name: str, given: Sequence[str]) -> Any:  # noqa: ANN401 - whatever type the option has
    if name in KEYED or name == "phase":
        return tuple(given)
    return read_value(name, given[0])
