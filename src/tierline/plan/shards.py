"""One device of several: the plan of its shard on its part of the machine, and what it exchanges."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from tierline.cost.costing import Costing
from tierline.cost.operations import operation_costs
from tierline.cost.passes import pass_groups
from tierline.cost.split import Split
from tierline.cost.weights import weigh
from tierline.machines.draft import HOST
from tierline.machines.machine import Link, Machine, Rate, Tier
from tierline.models.cut import Place, cut_counts
from tierline.models.description import Experts, Model, Phase
from tierline.models.share import Share
from tierline.models.stages import Shard, shard
from tierline.models.workload import Workload
from tierline.plan.devices import DevicePlan, Group, Options, Ranks, Use
from tierline.plan.exchanges import Reach, joining, uses_of
from tierline.plan.plan import LinkUse, Plan
from tierline.plan.residency import allowed_bytes


@dataclass(frozen=True)
class Divided:
    """A model divided: what every device's plan is made from. Devices that are alike share one plan."""

    model: Model
    machine: Machine
    workload: Workload
    costing: Costing
    options: Options
    split: Split
    stage_of: Mapping[str, int]
    known: dict[tuple[object, ...], tuple[Shard, Plan, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def group_batch(self) -> int:
        """Sequences of one micro-batch over all devices that share their experts."""
        return -(-self.workload.batch // (self.split.dp * self.split.micro_batches))

    @property
    def micro(self) -> Workload:
        """What one device is asked for in one micro-batch."""
        return replace(self.workload, batch=-(-self.group_batch // self.split.ep))


def device_plan(divided: Divided, ranks: Ranks, index: int) -> DevicePlan:
    """Return the plan of the device at `index`, which has `ranks`."""
    split, device = divided.split, divided.machine.devices[index]
    place = Place(Share(ranks.tp, split.tp), Share(ranks.ep, split.ep), divided.group_batch)
    tensor, expert = _alike(divided.model, place)
    key = (ranks.pp, tensor, expert, device.machine.name, id(device.machine))
    if key not in divided.known:
        divided.known[key] = _planned(divided, ranks, place, device.machine)
    part, plan, imbalance = divided.known[key]
    reach = Reach(
        {group: joining(divided.machine, others) for group, others in groups_of(split, index).items()},
        {"tp": split.tp, "ep": split.ep, "pp": split.pp, "dp": split.dp},
    )
    uses = tuple(_uses(divided, part, plan, reach, ranks))
    return DevicePlan(device.name, ranks, plan, uses, tuple(_all_links(plan, uses, split)), imbalance)


def shared_links(machine: Machine) -> tuple[str, ...]:
    """Return the links inside the common host: those that lead to its memory."""
    reached = {HOST} & {tier.name for tier in machine.tiers}
    found: list[Link] = []
    while more := [x for x in machine.links if x.target in reached and x not in found]:
        found += more
        reached |= {link.source for link in more}
    return tuple(link.name for link in found)


def shared_tiers(machine: Machine) -> frozenset[str]:
    """Return the memories of the common host: its own, and those that its links come from."""
    host = {HOST} & {tier.name for tier in machine.tiers}
    return frozenset(host | {machine.link(name).source for name in shared_links(machine)})


def _alike(model: Model, place: Place) -> tuple[object, object]:
    """Return what devices have in common that hold equal parts of everything."""
    blocks = {id(x.block): x.block for c in model.components for x in c.layers}.values()
    counts = sorted({count for block in blocks for count in cut_counts(block)})
    tensor = tuple(place.tensor.part(count) for count in counts)
    return tensor, (place.expert.index, place.expert.of)


def groups_of(split: Split, index: int) -> dict[Group, tuple[int, ...]]:
    """Return the devices of each group that the one at `index` is in; of stages, itself and the next."""
    found: dict[Group, tuple[int, ...]] = {}
    stride = 1
    for name, degree in (("tp", split.tp), ("ep", split.ep), ("dp", split.dp)):
        first = index - index // stride % degree * stride
        if degree > 1 and name != "dp":  # replicas exchange nothing
            found[name] = tuple(first + i * stride for i in range(degree))  # type: ignore[index]  # literals
        stride *= degree
    if split.pp > 1:
        following = index + stride
        found["pp"] = (index, following if following < split.devices else index - stride)
    return found


def _planned(
    divided: Divided, ranks: Ranks, place: Place, machine: Machine
) -> tuple[Shard, Plan, Mapping[str, float]]:
    """Return a device's shard, its plan with the cache of every micro-batch, and its imbalance by phase."""
    from tierline.plan.build import plan_with  # which plans over several devices with this

    part = shard(divided.model, divided.stage_of, ranks.pp, place)
    options, micro, copies = divided.options, divided.micro, divided.split.micro_batches
    own = own_part(machine, divided.split)

    def planned(beside_bytes: int) -> Plan:
        return plan_with(
            part.model,
            own,
            micro,
            divided.costing,
            resident_bytes=options.resident_bytes,
            program_bytes=options.program_bytes + beside_bytes,
            prefetch_depth=options.prefetch_depth,
            unit_bytes=options.unit_bytes,
        )

    plan = planned(0)
    if copies > 1:  # the caches of the other micro-batches are there all the time
        others = (copies - 1) * plan.footprint.kv_cache_bytes
        plan = planned(others)
        kv_bytes = plan.footprint.kv_cache_bytes + others
        held = replace(plan.footprint, kv_cache_bytes=kv_bytes, program_bytes=options.program_bytes)
        plan = replace(plan, footprint=held)
    return part, plan, dict(_imbalances(divided, part, plan))


def own_part(machine: Machine, split: Split) -> Machine:
    """Return a device's machine with its part of the host that it shares with the others.

    Links inside the host are shared by the devices of a stage, which stream at the same time, and memory
    of the host by all that hold different parts.
    """
    shared = shared_links(machine)
    sources = shared_tiers(machine)
    holders, streaming = split.tp * split.pp * split.ep, split.tp * split.ep * split.dp
    tiers = tuple(_part_of_tier(t, holders) if t.name in sources else t for t in machine.tiers)
    links = tuple(_part_of_link(x, streaming) if x.name in shared else x for x in machine.links)
    return replace(machine, tiers=tiers, links=links)


def _part_of_tier(tier: Tier, holders: int) -> Tier:
    free = allowed_bytes(tier) // holders
    return replace(tier, free_bytes=replace(tier.free_bytes or tier.capacity_bytes, value=free))


def _part_of_link(link: Link, streaming: int) -> Link:
    peak, sustained = (
        None if number is None else replace(number, value=number.value / streaming)
        for number in (link.rate.peak, link.rate.sustained)
    )
    return replace(link, rate=Rate(peak, sustained))


def _uses(divided: Divided, part: Shard, plan: Plan, reach: Reach, ranks: Ranks) -> Iterator[Use]:
    values = divided.micro.values()
    planned = {phase.name for phase in plan.phases}
    for phase in divided.model.phases:
        if phase.name in planned:
            hands_over = ranks.pp < divided.split.pp - 1 and _continues(divided, phase, ranks.pp)
            yield from uses_of(part, phase, values, divided.costing, reach, hands_over=hands_over)


def _continues(divided: Divided, phase: Phase, stage: int) -> bool:
    """Return whether a later stage has layers of the phase too."""
    return any(
        divided.stage_of[layer.name] > stage
        for component in divided.model.components
        if component.name in phase.components
        for layer in component.layers
        if layer.block.operations
    )


def _all_links(plan: Plan, uses: tuple[Use, ...], split: Split) -> Iterator[LinkUse]:
    """Yield a device's links over all phases and micro-batches: memory, host, then interconnects."""
    found: dict[str, LinkUse] = {}
    moved = [use for phase in plan.phases for use in phase.links]
    moved += [LinkUse(use.link, use.sent_bytes, use.time_s, "sustained") for use in uses]
    for use in moved:
        known = found.get(use.name, LinkUse(use.name, 0, 0.0, use.rate_kind))
        time_s = None if known.time_s is None or use.time_s is None else known.time_s + use.time_s
        found[use.name] = replace(known, traffic_bytes=known.traffic_bytes + use.traffic_bytes, time_s=time_s)
    for use in found.values():
        times = split.micro_batches
        total_s = None if use.time_s is None else times * use.time_s
        yield replace(use, traffic_bytes=times * use.traffic_bytes, time_s=total_s)


def _imbalances(divided: Divided, part: Shard, plan: Plan) -> Iterator[tuple[str, float]]:
    """Yield for every phase with routed rows how much more arithmetic the busiest device has than the mean.

    Only the experts' part of it is uneven: `1 + (imbalance - 1) * their FLOP / all FLOP`.
    """
    split = divided.split
    how = _experts(divided.model)
    if split.ep == 1 or how is None:
        return
    from tierline.cost.imbalance import given_imbalance, uniform_imbalance  # numpy, for these models alone

    weights, values = weigh(part.model, divided.costing.precision), divided.micro.values()
    shares = divided.costing.expert_shares
    for phase in plan.phases:
        described = next(p for p in part.model.phases if p.name == phase.name)
        group = pass_groups(described, values, divided.costing)[-1]
        routed = sum(
            count * cost.flop
            for kind, count in weights.kinds(described.components)
            for cost in operation_costs(kind, described, group.values(values), divided.costing)
            if cost.operation.experts is not None
        )
        whole = phase.flop // phase.passes
        rows = divided.group_batch * group.tokens
        if routed and whole:
            worst = (
                uniform_imbalance(how, rows, split.ep)
                if shares is None
                else given_imbalance(how, shares, split.ep)
            )
            yield phase.name, 1 + (worst - 1) * min(1.0, routed / whole)


def _experts(model: Model) -> Experts | None:
    """Return the routed experts of the layers that have the most of them."""
    found = [o.experts for c in model.components for x in c.layers for o in x.block.operations if o.experts]
    return max(found, key=lambda how: prod((how.count, how.per_token)), default=None)
