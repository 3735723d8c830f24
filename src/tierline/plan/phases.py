"""One phase of a plan: its steps, its totals, and how long it takes at the roofline."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tierline.cost.layer_pass import Costing, LayerPass, layer_pass, phase_values
from tierline.cost.roofline import Load, attainable
from tierline.cost.weights import LayerWeights, ModelWeights, WeightRead
from tierline.machines.machine import Machine, Rate
from tierline.models.description import Phase
from tierline.models.workload import Workload
from tierline.plan.plan import LinkUse, PhasePlan, Read, Residency, Step
from tierline.plan.units import StoredLayer

# Phases that make or take tokens of a text; rows of the others (patches, actions) are not called tokens.
_TOKEN_PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Setting:
    """What every phase of a plan has in common. `compute` is the arithmetic rate, None if not known."""

    machine: Machine
    weights: ModelWeights
    stored: Mapping[str, StoredLayer]
    residency: Residency
    costing: Costing
    compute: Rate | None

    @property
    def port(self) -> str:
        """The fast tier's own port, named after the tier."""
        return self.machine.fast.name

    @property
    def streamed_path(self) -> tuple[str, ...]:
        """The links that a streamed byte crosses: its route, then the port unless it goes past it."""
        route = self.residency.route
        past = bool(route) and self.machine.link(route[-1]).target == "compute"
        return route if past else (*route, self.port)

    def pinned_share(self) -> dict[str, tuple[int, int]]:
        """Return (pinned bytes, bytes) of every layer that stores weights."""
        pinned = {u.name for u in (*self.residency.placement.pinned, *self.residency.spare_pinned)}
        return {
            name: (
                sum(u.footprint_bytes for u in layer.units if u.name in pinned),
                layer.footprint_bytes,
            )
            for name, layer in self.stored.items()
        }


def plan_phase(phase: Phase, workload: Workload, setting: Setting) -> PhasePlan | None:
    """Return the plan of one phase, or None where the workload makes no pass of it."""
    values = phase_values(phase, workload.values())
    passes = phase.passes.evaluate(workload.values())
    layers = tuple(setting.weights.of(phase.components))
    if not passes or not _has_rows(layers, values):
        return None
    share = setting.pinned_share()
    costs: dict[int, LayerPass] = {}
    steps: list[Step] = []
    total = _Totals(passes)
    for entry in layers:
        key = id(entry.weights)
        if key not in costs:
            costs[key] = layer_pass(entry.weights, phase, values, setting.costing)
        cost = costs[key]
        reads = tuple(_reads(entry, cost, share, setting))
        steps.append(Step(entry.layer.name, reads, cost.flop, _seconds(cost.flop, setting.compute)))
        total.add(cost, reads)
        for read, count in cost.static_reads:
            total.add_once(_weight_reads(entry, read, count, share, setting))
    return total.phase_plan(phase, values, tuple(steps), setting)


def _has_rows(layers: tuple[LayerWeights, ...], values: Mapping[str, int]) -> bool:
    """Return whether the workload gives any operation something to do (no images, no vision)."""
    blocks = {id(entry.weights): entry.weights.block for entry in layers}
    return any(o.rows.evaluate(values) for block in blocks.values() for o in block.operations)


def _reads(
    entry: LayerWeights, cost: LayerPass, share: Mapping[str, tuple[int, int]], setting: Setting
) -> Iterator[Read]:
    """Yield what one layer moves in one pass, weights of one unit merged into one read per link."""
    merged: dict[tuple[str, str], int] = {}
    for weight_read, count in cost.reads:
        for read in _weight_reads(entry, weight_read, count, share, setting):
            key = (read.name, read.link)
            merged[key] = merged.get(key, 0) + read.traffic_bytes
    for (name, link), traffic_bytes in merged.items():
        yield Read(name, link, traffic_bytes)
    if cost.kv_read_bytes + cost.kv_write_bytes:
        yield Read("kv", setting.port, cost.kv_read_bytes + cost.kv_write_bytes)
    if cost.activation_bytes:
        yield Read("activations", setting.port, cost.activation_bytes)


def _weight_reads(
    entry: LayerWeights,
    read: WeightRead,
    count: float,
    share: Mapping[str, tuple[int, int]],
    setting: Setting,
) -> Iterator[Read]:
    """Yield the crossings of one weight read: the pinned part over the fast port, the rest over the link.

    Rows of a table of which any part is streamed come from the table's home.
    """
    owner = read.owner or entry.layer.name
    pinned, held = share.get(owner, (1, 1))  # what no file holds (a table made at load) is not streamed
    expected = round(count)
    fast = expected if pinned == held else 0 if read.by_row else expected * pinned // held
    if fast:
        yield Read(owner, setting.port, fast)
    if expected - fast:
        for link in setting.streamed_path:
            yield Read(owner, link, expected - fast)


class _Totals:
    """Adds up what a phase moves and computes."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.weight = self.static_weight = self.kv_read = self.kv_write = self.activation = 0
        self.flop = 0
        self.links: dict[str, int] = {}

    def add(self, cost: LayerPass, reads: tuple[Read, ...]) -> None:
        """Add one layer's turn, once per pass."""
        self.weight += self.passes * sum(round(count) for _, count in cost.reads)
        once = sum(round(count) for _, count in cost.static_reads)
        self.weight += once
        self.static_weight += once
        self.kv_read += self.passes * cost.kv_read_bytes
        self.kv_write += self.passes * cost.kv_write_bytes
        self.activation += self.passes * cost.activation_bytes
        self.flop += self.passes * cost.flop + cost.static_flop
        for read in reads:
            self._cross(read, self.passes)

    def add_once(self, reads: Iterator[Read]) -> None:
        """Add reads that happen once per phase."""
        for read in reads:
            self._cross(read, 1)

    def phase_plan(
        self, phase: Phase, values: Mapping[str, int], steps: tuple[Step, ...], setting: Setting
    ) -> PhasePlan:
        """Return the finished phase."""
        possible = setting.residency.strategy != "impossible"
        links = tuple(self._link_use(name, setting, possible=possible) for name in self._names(setting))
        compute_s = _seconds(self.flop, setting.compute) if possible else None
        compute_kind = setting.compute.kind if setting.compute else "peak"
        loads = [Load(f"link:{use.name}", use.time_s, use.rate_kind) for use in links]
        loads.append(Load("compute", compute_s, compute_kind))
        reached = attainable(loads, shared_memory=setting.machine.shared_memory)
        time_s = reached[0] if reached else None
        tokens = values["batch"] * values["tokens"] * self.passes
        return PhasePlan(
            name=phase.name,
            passes=self.passes,
            tokens=values["tokens"],
            context=values["context"],
            steps=steps,
            weight_read_bytes=self.weight,
            static_weight_read_bytes=self.static_weight,
            kv_read_bytes=self.kv_read,
            kv_write_bytes=self.kv_write,
            activation_traffic_bytes=self.activation,
            flop=self.flop,
            compute_s=compute_s,
            time_s=time_s,
            bound=reached[1].resource if reached else None,
            rate_kind=reached[1].rate_kind if reached else None,
            tokens_per_s=tokens / time_s if time_s and phase.name in _TOKEN_PHASES else None,
            links=links,
        )

    def _cross(self, read: Read, times: int) -> None:
        self.links[read.link] = self.links.get(read.link, 0) + times * read.traffic_bytes

    def _names(self, setting: Setting) -> list[str]:
        """Return the fast port first, then the links that anything crosses."""
        return [setting.port, *(name for name in self.links if name != setting.port)]

    def _link_use(self, name: str, setting: Setting, *, possible: bool) -> LinkUse:
        traffic_bytes = self.links.get(name, 0)
        machine = setting.machine
        rate = machine.fast.rate if name == setting.port else machine.link(name).rate
        time_s = _seconds(traffic_bytes, rate) if possible else None
        return LinkUse(name, traffic_bytes, time_s, rate.kind if rate else "peak")


def _seconds(amount: int, rate: Rate | None) -> float | None:
    return None if rate is None or not (rate.sustained or rate.peak) else amount / rate.value
