"""One phase of a plan: its steps, its totals, and how long it takes at the roofline."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tierline.cost.amount import Amount
from tierline.cost.costing import Costing
from tierline.cost.layer_pass import LayerPass, OwnerRead
from tierline.cost.phase_cost import PhaseCost, phase_cost
from tierline.cost.roofline import Load, attainable
from tierline.cost.weights import LayerWeights, ModelWeights
from tierline.machines.machine import Machine, Rate
from tierline.models.description import Phase
from tierline.models.workload import Workload
from tierline.plan.plan import LinkUse, PhasePlan, Read, Residency, Step
from tierline.plan.units import StoredLayer

# Phases that make or take tokens of a text; rows of the others (patches, actions) are not called tokens.
TOKEN_PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Setting:
    """What every phase of a plan has in common.

    `share` holds (pinned bytes, bytes) of every layer that stores weights and is not pinned whole. `port` is
    the fast tier's own, named after it. `compute` is the arithmetic rate, None if not known.
    """

    machine: Machine
    weights: ModelWeights
    share: Mapping[str, tuple[int, int]]
    residency: Residency
    costing: Costing
    compute: Rate | None
    port: str

    @property
    def streamed_path(self) -> tuple[str, ...]:
        """The links that a streamed byte crosses: its route, then the port unless it goes past it."""
        route = self.residency.route
        past = bool(route) and self.machine.link(route[-1]).target == "compute"
        return route if past else (*route, self.port)


def pinned_share(stored: Mapping[str, StoredLayer], residency: Residency) -> dict[str, tuple[int, int]]:
    """Return (pinned bytes, bytes) of every layer that is not pinned whole."""
    if not residency.placement.streamed and not residency.spare_streamed:
        return {}
    pinned = {u.name for u in (*residency.placement.pinned, *residency.spare_pinned)}
    shares = {
        name: (sum(u.footprint_bytes for u in layer.units if u.name in pinned), layer.footprint_bytes)
        for name, layer in stored.items()
    }
    return {name: (held, whole) for name, (held, whole) in shares.items() if held != whole}


def plan_phase(phase: Phase, workload: Workload, setting: Setting) -> PhasePlan | None:
    """Return the plan of one phase, or None where the workload makes no pass of it."""
    values = workload.values()
    if not phase.passes.evaluate(values) or not has_rows(phase, values, setting.weights):
        return None
    cost = phase_cost(phase, setting.weights, values, setting.costing)
    layers = tuple(setting.weights.of(phase.components))
    last = cost.kinds[-1]
    split = [_weight_reads(entry, last[id(entry.weights)].reads, setting) for entry in layers]
    steps = tuple(_steps(layers, last, split, setting))
    return _phase_plan(phase, workload.batch, cost, steps, link_traffic(phase, cost, setting), setting)


def link_traffic(phase: Phase, cost: PhaseCost, setting: Setting) -> dict[str, Amount]:
    """Return the bytes that cross each link in all passes of `phase`, the port first.

    They are arrays where `cost` has arrays. What is pinned crosses the port, what is streamed the links of
    its path; layers of a kind whose weights are pinned to the same part count once, times their number.
    """
    if not setting.share:
        return {setting.port: cost.traffic_bytes}
    crossed = {setting.port: cost.kv_read_bytes + cost.kv_write_bytes + cost.activation_bytes}
    alike: dict[tuple[int, tuple[int, int] | None], list[LayerWeights]] = {}
    for entry in setting.weights.of(phase.components):
        alike.setdefault((id(entry.weights), setting.share.get(entry.layer.name)), []).append(entry)
    for i, (group, kinds) in enumerate(zip(cost.groups, cost.kinds, strict=True)):
        for (kind, _), entries in alike.items():
            _cross(
                crossed, _weight_reads(entries[0], kinds[kind].reads, setting), len(entries) * group.passes
            )
            if i == 0:
                _cross(crossed, _weight_reads(entries[0], kinds[kind].static_reads, setting), len(entries))
    return crossed


def has_rows(phase: Phase, workload: Mapping[str, int], weights: ModelWeights) -> bool:
    """Return whether the workload gives any operation something to do (no images, no vision)."""
    values = {
        **workload,
        "tokens": phase.tokens.evaluate(workload),
        "context": phase.context.evaluate(workload),
    }
    blocks = (kind.block for kind, _ in weights.kinds(phase.components))
    return any(o.rows.evaluate(values) for block in blocks for o in block.operations)


def _weight_reads(entry: LayerWeights, reads: Sequence[OwnerRead], setting: Setting) -> list[Read]:
    """Return the crossings of a layer's weight reads: what is pinned over the fast port, the rest over links.

    Rows of a table of which any part is streamed come from the table's home. What no file holds (a table made
    at load) is not streamed.
    """
    crossings = []
    for read in reads:
        owner = read.owner or entry.layer.name
        share = setting.share.get(owner)
        count = fast = read.traffic_bytes
        if share is not None:
            fast = 0 if read.by_row else count * share[0] // share[1]
        if not _is_nothing(fast):
            crossings.append(Read(owner, setting.port, fast))
        if not _is_nothing(count - fast):
            crossings += [Read(owner, link, count - fast) for link in setting.streamed_path]
    return crossings


def _is_nothing(count: Amount) -> bool:
    """Return whether a count is 0; arrays are kept, zeros and all."""
    return isinstance(count, int) and not count


def _cross(crossed: dict[str, Amount], reads: Iterable[Read], times: Amount) -> None:
    for read in reads:
        crossed[read.link] = crossed.get(read.link, 0) + times * read.traffic_bytes


def _steps(
    layers: Sequence[LayerWeights],
    costs: Mapping[int, LayerPass],
    split: Sequence[list[Read]],
    setting: Setting,
) -> Iterator[Step]:
    """Yield each layer's turn in a pass; what layers of a kind have in common is made once."""
    common: dict[int, tuple[tuple[Read, ...], int, float | None]] = {}
    for key, cost in costs.items():
        moved = {"kv": cost.kv_read_bytes + cost.kv_write_bytes, "activations": cost.activation_bytes}
        others = tuple(Read(name, setting.port, count) for name, count in moved.items() if count)
        common[key] = (others, cost.flop, seconds(cost.flop, setting.compute))
    for entry, reads in zip(layers, split, strict=True):
        others, flop, compute_s = common[id(entry.weights)]
        yield Step(entry.layer.name, (*reads, *others), flop, compute_s)


def _phase_plan(
    phase: Phase,
    batch: int,
    cost: PhaseCost,
    steps: tuple[Step, ...],
    crossed: Mapping[str, int],
    setting: Setting,
) -> PhasePlan:
    """Return the finished phase."""
    possible = setting.residency.strategy != "impossible"
    links = tuple(_link_use(name, count, setting, possible=possible) for name, count in crossed.items())
    compute_s = seconds(cost.flop, setting.compute) if possible else None
    loads = [Load(f"link:{use.name}", use.time_s, use.rate_kind) for use in links]
    loads.append(Load("compute", compute_s, setting.compute.kind if setting.compute else "peak"))
    reached = attainable(loads, shared_memory=setting.machine.shared_memory)
    time_s = reached[0] if reached else None
    rows = batch * sum(group.passes * group.tokens for group in cost.groups)
    return PhasePlan(
        name=phase.name,
        passes=cost.passes,
        tokens=max(group.tokens for group in cost.groups),
        context=cost.groups[-1].context,
        steps=steps,
        weight_read_bytes=cost.weight_read_bytes,
        static_weight_read_bytes=cost.static_weight_read_bytes,
        kv_read_bytes=cost.kv_read_bytes,
        kv_write_bytes=cost.kv_write_bytes,
        activation_traffic_bytes=cost.activation_bytes,
        flop=cost.flop,
        compute_s=compute_s,
        time_s=time_s,
        bound=reached[1].resource if reached else None,
        rate_kind=reached[1].rate_kind if reached else None,
        tokens_per_s=rows / time_s if time_s and phase.name in TOKEN_PHASES else None,
        links=links,
    )


def _link_use(name: str, traffic_bytes: int, setting: Setting, *, possible: bool) -> LinkUse:
    machine = setting.machine
    rate = machine.fast.rate if name == setting.port else machine.link(name).rate
    time_s = seconds(traffic_bytes, rate) if possible else None
    return LinkUse(name, traffic_bytes, time_s, rate.kind if rate else "peak")


def seconds(amount: int, rate: Rate | None) -> float | None:
    """Return how long `amount` takes at `rate`; None where that is not known."""
    return None if rate is None or not (rate.sustained or rate.peak) else amount / rate.value
