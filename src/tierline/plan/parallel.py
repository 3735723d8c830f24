"""One plan over several devices: every device's shard planned by itself, then put together in time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from tierline.cost.bubble import pipeline_s, round_s
from tierline.cost.costing import Costing
from tierline.cost.footprint import Footprint
from tierline.cost.roofline import Load, attainable
from tierline.cost.split import Split
from tierline.errors import InputError
from tierline.machines.devices import several
from tierline.machines.machine import Machine, RateKind
from tierline.models.description import Model, Phase
from tierline.models.stages import assign_stages, repeating_layers
from tierline.models.workload import Workload
from tierline.plan.devices import DevicePlan, Options, Parallel, Ranks, StagedPhase
from tierline.plan.plan import LinkUse, PhasePlan, Plan, TierUse
from tierline.plan.residency import allowed_bytes
from tierline.plan.shards import Divided, device_plan, shared_links, shared_tiers

# Phases whose passes do not wait for one another: the parts of a prompt, an image.
INDEPENDENT = ("prefill", "vision", "encode")
_TOKEN_PHASES = ("prefill", "decode")


def plan_parallel(
    model: Model, machine: Machine, workload: Workload, costing: Costing, options: Options
) -> Plan:
    """Return the plan of `model` split over the devices of `machine` as `costing.split` says.

    Exchanges are not hidden behind compute: a pass of a stage takes its device's roofline and then its
    exchanges; the slowest device of a stage sets it. Raises InputError for a split that the model or the
    machine does not allow.
    """
    split = costing.split
    assert split is not None  # noqa: S101 - plan_with comes here for splits alone
    several(machine)
    check_split(model, machine, workload, split)
    if split.zero:
        raise InputError(f"--parallel {split}: zero divides an optimizer's states; it goes with --training")
    stage_of, layers = stages_of(model, machine, split)
    divided = Divided(model, machine, workload, replace(costing, split=None), options, split, stage_of)
    made = [
        device_plan(divided, Ranks(tp, pp, ep, dp), index)
        for index, (pp, dp, ep, tp) in enumerate(
            product(range(split.pp), range(split.dp), range(split.ep), range(split.tp))
        )
    ]
    whole = _Whole(divided, made)
    parallel = Parallel(
        split,
        layers,
        divided.micro.batch,
        tuple(made),
        tuple(whole.staged(phase) for phase in whole.phases),
    )
    return _plan(whole, parallel, costing)


def stages_of(model: Model, machine: Machine, split: Split) -> tuple[dict[str, int], tuple[int, ...]]:
    """Return the stage of every layer, and how many of the layers that repeat each stage has.

    Raises InputError where there are too few.
    """
    per_stage = split.devices // split.pp
    used = [machine.devices[stage * per_stage].machine for stage in range(split.pp)]
    free = [float(allowed_bytes(one.fast)) for one in used]
    shares = {"even": None, "memory": free}[split.layers] if isinstance(split.layers, str) else split.layers
    found = assign_stages(model, split.pp, shares)
    names = repeating_layers(model)
    return found, tuple(sum(found[name] == stage for name in names) for stage in range(split.pp))


def check_split(model: Model, machine: Machine, workload: Workload, split: Split) -> None:
    """Raise InputError for a split that the machine, the model or the batch does not allow."""
    if split.devices > len(machine.devices):
        raise InputError(
            f"--parallel {split}: takes {split.devices} devices, {machine.name} has {len(machine.devices)}"
        )
    routed = any(o.experts for c in model.components for x in c.layers for o in x.block.operations)
    if split.ep > 1 and not routed:
        raise InputError(f"--parallel {split}: {model.name} has no experts to divide; use tp, pp or dp")
    sequences = -(-workload.batch // (split.dp * split.ep))
    if split.micro_batches > sequences:
        raise InputError(
            f"--parallel {split}: micro={split.micro_batches}, but a device has {sequences} of the "
            f"{workload.batch} sequences; use a larger --batch, or fewer micro-batches"
        )


@dataclass(frozen=True, slots=True)
class _Whole:
    """All devices together."""

    divided: Divided
    devices: Sequence[DevicePlan]

    @property
    def phases(self) -> list[Phase]:
        """The phases that some device takes part in."""
        planned = {p.name for d in self.devices for p in d.plan.phases}
        return [phase for phase in self.divided.model.phases if phase.name in planned]

    def of_stage(self, stage: int) -> list[DevicePlan]:
        """Return the devices of a stage."""
        return [d for d in self.devices if d.ranks.pp == stage]

    def staged(self, phase: Phase) -> StagedPhase:
        """Return a phase stage by stage."""
        split = self.divided.split
        passes = self.passes(phase)
        totals = [self._stage_s(phase, stage) for stage in range(split.pp)]
        exchanged = tuple(
            max(_exchange_s(d, phase.name) for d in self.of_stage(stage)) / passes
            for stage in range(split.pp)
        )
        stage_s = tuple(None if t is None else t / passes for t in totals)
        known = [s for s in stage_s if s is not None]
        bubble = None
        if len(known) == split.pp and (period := self._period_s(phase, known)):
            bubble = 1 - split.micro_batches * self._waves(phase) * sum(known) / (split.pp * period)
        return StagedPhase(phase.name, stage_s, exchanged, bubble)

    def passes(self, phase: Phase) -> int:
        """Return how often the phase runs through the layers, for one micro-batch."""
        found = (p.passes for d in self.devices for p in d.plan.phases if p.name == phase.name)
        return max(found, default=1)

    def time_s(self, phase: Phase, staged: StagedPhase) -> float | None:
        """Return the seconds of all passes of a phase, for all micro-batches; None where one is not known."""
        known = [s for s in staged.stage_s if s is not None]
        if len(known) < len(staged.stage_s):
            return None
        rounds = 1 if phase.name in INDEPENDENT else self.passes(phase)
        return max(rounds * self._period_s(phase, known), *self._shared_s(phase), 0.0)

    def _waves(self, phase: Phase) -> int:
        """Return how many passes follow one another through the pipeline without waiting for its end."""
        return self.passes(phase) if phase.name in INDEPENDENT else 1

    def _period_s(self, phase: Phase, stage_s: Sequence[float]) -> float:
        micro = self.divided.split.micro_batches
        if phase.name in INDEPENDENT:
            return float(pipeline_s(stage_s, micro * self._waves(phase)))
        return float(round_s(stage_s, micro))

    def _stage_s(self, phase: Phase, stage: int) -> float | None:
        """Return the seconds of all passes of one micro-batch on the slowest device of a stage."""
        slowest = 0.0
        for device in self.of_stage(stage):
            planned = device.plan.phase(phase.name)
            if planned is None:
                continue
            own = device_s(device, planned)
            if own is None:
                return None
            slowest = max(slowest, own + _exchange_s(device, phase.name))
        return slowest

    def _shared_s(self, phase: Phase) -> Iterator[float]:
        """Yield for every link of the common host how long all that crosses it takes."""
        machine, micro = self.divided.machine, self.divided.split.micro_batches
        for name in shared_links(machine):
            planned = (d.plan.phase(phase.name) for d in self.devices)
            crossed = sum(u.traffic_bytes for p in planned if p for u in p.links if u.name == name)
            if crossed:
                yield micro * crossed / machine.link(name).rate.value


def device_s(device: DevicePlan, phase: PhasePlan) -> float | None:
    """Return the roofline of a device in a phase, with more of its arithmetic where routing is uneven."""
    uneven = device.imbalance.get(phase.name, 1.0)
    if phase.compute_s is None or uneven == 1.0:
        return phase.time_s
    loads = [Load(f"link:{use.name}", use.time_s, use.rate_kind) for use in phase.links]
    loads.append(Load("compute", phase.compute_s * uneven, phase.rate_kind or "peak"))
    reached = attainable(loads, shared_memory=device.plan.machine.shared_memory)
    return reached[0] if reached else None


def _exchange_s(device: DevicePlan, phase: str) -> float:
    return sum(use.time_s for use in device.uses if use.phase == phase)


def _plan(whole: _Whole, parallel: Parallel, costing: Costing) -> Plan:
    divided, plans = whole.divided, [d.plan for d in whole.devices]
    worst = max(plans, key=lambda p: (p.strategy == "impossible", p.strategy == "streamed", p.short_bytes))
    staged = {s.name: s for s in parallel.phases}
    phases = tuple(_phase(whole, phase, staged[phase.name]) for phase in whole.phases)
    return Plan(
        model=divided.model,
        machine=divided.machine,
        workload=divided.workload,
        costing=costing,
        resident_bytes=divided.options.resident_bytes,
        prefetch_depth=divided.options.prefetch_depth,
        fits=all(plan.fits for plan in plans),
        short_bytes=max(plan.short_bytes for plan in plans),
        footprint=_sum([plan.footprint for plan in plans]),
        residency=worst.residency,
        tiers=tuple(_tiers(whole)),
        phases=phases,
        notes=tuple(dict.fromkeys(_notes(whole))),
        parallel=parallel,
    )


def _phase(whole: _Whole, phase: Phase, staged: StagedPhase) -> PhasePlan:
    """Return a phase of the whole: totals over all devices and micro-batches, and the time of it all."""
    micro = whole.divided.split.micro_batches
    found = [(d, p) for d in whole.devices if (p := d.plan.phase(phase.name))]
    planned = [p for _, p in found]
    time_s = whole.time_s(phase, staged)
    slowest = max(found, key=lambda pair: (device_s(*pair) or 0.0) + _exchange_s(pair[0], phase.name))
    bound, kind = _bound(*slowest)
    work, first = whole.divided.workload, planned[0]
    rows = work.batch * (work.prompt_tokens if phase.name == "prefill" else first.tokens * first.passes)
    return PhasePlan(
        name=phase.name,
        passes=whole.passes(phase),
        tokens=first.tokens,
        context=first.context,
        steps=(),
        weight_read_bytes=micro * sum(p.weight_read_bytes for p in planned),
        static_weight_read_bytes=micro * sum(p.static_weight_read_bytes for p in planned),
        kv_read_bytes=micro * sum(p.kv_read_bytes for p in planned),
        kv_write_bytes=micro * sum(p.kv_write_bytes for p in planned),
        activation_traffic_bytes=micro * sum(p.activation_traffic_bytes for p in planned),
        flop=micro * sum(p.flop for p in planned),
        compute_s=None if any(p.compute_s is None for p in planned) else slowest[1].compute_s,
        time_s=time_s,
        bound=bound if time_s is not None else None,
        rate_kind=kind if time_s is not None else None,
        tokens_per_s=rows / time_s if time_s and phase.name in _TOKEN_PHASES else None,
        links=tuple(_links(whole, phase.name)),
    )


def _bound(device: DevicePlan, phase: PhasePlan) -> tuple[str | None, RateKind | None]:
    """Return what takes most of the slowest device's time: its own bound, or the link of its exchanges."""
    exchanged: dict[str, float] = {}
    for use in device.uses:
        if use.phase == phase.name:
            exchanged[use.link] = exchanged.get(use.link, 0.0) + use.time_s
    most = max(exchanged, key=exchanged.__getitem__, default=None)
    if most is not None and exchanged[most] > (phase.time_s or 0.0):
        return f"link:{most}", "sustained"
    return phase.bound, phase.rate_kind


def _links(whole: _Whole, phase: str) -> Iterator[LinkUse]:
    """Yield every link of a phase: bytes over all devices, and seconds of the device that uses it most.

    A link of the common host is one for all: its seconds are those of all bytes.
    """
    machine, micro = whole.divided.machine, whole.divided.split.micro_batches
    common = shared_links(machine)
    found: dict[str, LinkUse] = {}
    for device in whole.devices:
        planned = device.plan.phase(phase)
        for use in (*(planned.links if planned else ()), *exchanged_links(device, phase)):
            known = found.get(use.name, LinkUse(use.name, 0, 0.0, use.rate_kind))
            times = (known.time_s, None if use.time_s is None else micro * use.time_s)
            time_s = None if None in times else max(t for t in times if t is not None)
            found[use.name] = replace(
                known, traffic_bytes=known.traffic_bytes + micro * use.traffic_bytes, time_s=time_s
            )
    for use in found.values():
        known_s = use.time_s is not None and use.name in common
        yield replace(use, time_s=use.traffic_bytes / machine.link(use.name).rate.value) if known_s else use


def exchanged_links(device: DevicePlan, phase: str | None = None) -> Iterator[LinkUse]:
    """Yield what a device sends over each interconnect for one micro-batch, in a phase or in all."""
    sent: dict[str, tuple[int, float]] = {}
    for use in device.uses:
        if phase is None or use.phase == phase:
            count, time_s = sent.get(use.link, (0, 0.0))
            sent[use.link] = (count + use.sent_bytes, time_s + use.time_s)
    yield from (LinkUse(name, count, time_s, "sustained") for name, (count, time_s) in sent.items())


def _sum(footprints: Sequence[Footprint]) -> Footprint:
    components: dict[str, int] = {}
    for footprint in footprints:
        for name, count in footprint.by_component_bytes.items():
            components[name] = components.get(name, 0) + count
    return Footprint(
        weights_bytes=sum(f.weights_bytes for f in footprints),
        tied_weights_bytes=sum(f.tied_weights_bytes for f in footprints),
        kv_cache_bytes=sum(f.kv_cache_bytes for f in footprints),
        activation_bytes=sum(f.activation_bytes for f in footprints),
        program_bytes=sum(f.program_bytes for f in footprints),
        runtime_bytes=sum(f.runtime_bytes for f in footprints),
        by_component_bytes=components,
    )


def _tiers(whole: _Whole) -> Iterator[TierUse]:
    """Yield the memories of every device, then what the devices use of those of their common host."""
    machine = whole.divided.machine
    common = shared_tiers(machine)
    used = dict.fromkeys((tier.name for tier in machine.tiers if tier.name in common), 0)
    for device in whole.devices:
        for tier in device.plan.tiers:
            if tier.name not in common:
                yield replace(tier, name=f"{device.name} {tier.name}")
            elif device.ranks.dp == 0:  # replicas hold the same
                used[tier.name] += tier.used_bytes
    for name, used_bytes in used.items():
        shared = machine.tier(name)
        yield TierUse(name, int(shared.capacity_bytes.value), allowed_bytes(shared), used_bytes)


def _notes(whole: _Whole) -> Iterator[str]:
    split, work = whole.divided.split, whole.divided.workload
    yield from (note for device in whole.devices for note in device.plan.notes)
    yield from whole.divided.machine.notes
    unused = len(whole.divided.machine.devices) - split.devices
    if unused:
        yield f"{unused} of the {len(whole.divided.machine.devices)} devices are not used"
    ways = split.dp * split.ep * split.micro_batches
    if work.batch % ways:
        yield (
            f"{work.batch} sequences do not divide among {ways} (dp x ep x micro-batches): the figures are "
            f"of devices that have {whole.divided.micro.batch * split.micro_batches}"
        )
    if split.pp > 1 and split.micro_batches < split.pp:
        yield (
            f"{split.micro_batches} of {split.pp} stages work at a time: more micro-batches (micro=) of more "
            "sequences (--batch) fill them"
        )
