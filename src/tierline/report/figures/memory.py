"""The memory map: every tier to scale, what lies in it, what it allows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tierline.errors import InputError
from tierline.place.placement import Unit
from tierline.plan.plan import Plan, TierUse
from tierline.plan.units import layer_of
from tierline.report.figures.figure import Bar, Bars, Paint, Segment
from tierline.report.figures.palette import (
    ACTIVATIONS,
    KV,
    PROGRAM,
    RUNTIME,
    STAGING,
    bytes_axis,
    component_paint,
)
from tierline.report.schema import parameters_by_component
from tierline.units import format_bytes, format_count

_MARGIN = 1.04


def memory_map(plan: Plan) -> Bars:
    """Return the tiers as bars: components, KV and the rest stacked, streamed components hatched.

    The fast tier comes first; others only where they hold something. A bar's sum is the plan's `used_bytes`
    of that tier. Where nothing works, the fast tier has all that would have to be resident. Of several
    devices each has its own fast tier, and what they keep elsewhere is together.
    """
    held = [tier for i, tier in enumerate(plan.tiers) if i == 0 or tier.used_bytes]
    bars = tuple(_bar(plan, tier) for tier in held)
    most = max(held[0].allowed_bytes, *(bar.total for bar in bars))
    axis = bytes_axis("memory", most, high=most * _MARGIN)
    return Bars(f"{plan.model.name} on {plan.machine.name}: memory map", axis, bars)


def one_device(plan: Plan, what: str) -> None:
    """Raise InputError where a plan is of several devices and `what` can only be drawn of one."""
    if plan.parallel is not None:
        raise InputError(f"{what} is drawn of one device: leave out --parallel, or draw memory or traffic")


def other_segments(plan: Plan) -> Iterator[Segment]:
    """Yield what is not weights and is not 0: KV cache, activations, program, runtime."""
    footprint, work = plan.footprint, plan.workload
    tokens = f"{work.context:,} tokens, batch {work.batch:,}, {plan.costing.precision.kv.name}"
    parts = (
        ("KV cache", footprint.kv_cache_bytes, KV, tokens),
        ("activations", footprint.activation_bytes, ACTIVATIONS, "the most that is live at once"),
        ("program", footprint.program_bytes, PROGRAM, "instructions of a pass"),
        ("runtime", footprint.runtime_bytes, RUNTIME, "what runs the model takes this for itself"),
    )
    for name, count, paint, says in parts:
        if count:
            yield Segment(name, count, paint, f"{amount(count)}; {says}")


def amount(count: int) -> str:
    """Return bytes both exactly and readably."""
    return f"{count:,} B ({format_bytes(count)})"


def used_of(used_bytes: int, allowed_bytes: int) -> str:
    """Return how much of what is allowed is used, in words."""
    return f"{format_bytes(used_bytes)}, {format_bytes(allowed_bytes)} allowed"


def _bar(plan: Plan, tier: TierUse) -> Bar:
    segments = _segments(plan, tier.name) if plan.parallel is None else _shards(plan, tier.name)
    return Bar(tier.name, tuple(segments), tier.allowed_bytes, used_of(tier.used_bytes, tier.allowed_bytes))


def _shards(plan: Plan, tier: str) -> list[Segment]:
    """Return what devices keep in a tier: one in its own, called after it, or all in one that they share."""
    found: dict[str, Segment] = {}
    for device in plan.parallel.devices if plan.parallel else ():
        own = tier.removeprefix(f"{device.name} ")
        shared = tier == own and tier != device.plan.machine.fast.name
        if shared or tier != own:
            for segment in _segments(device.plan, own):
                before = found.get(segment.name)
                total = segment.value + (before.value if before else 0)
                found[segment.name] = replace(segment, value=total)
    return list(found.values())


def _segments(plan: Plan, tier: str) -> list[Segment]:
    residency = plan.residency
    segments: list[Segment] = []
    if tier == plan.machine.fast.name:
        pinned = (*residency.placement.pinned, *residency.spare_pinned)
        segments += _components(plan, pinned, streamed=False)
        placement = residency.placement
        if placement.staging_bytes:
            says = f"{placement.slots} slots of {amount(placement.slot_bytes)}"
            segments.append(Segment("staging", placement.staging_bytes, STAGING, says))
        segments += other_segments(plan)
    if tier == residency.home:
        streamed = (*residency.placement.streamed, *residency.spare_streamed)
        segments += _components(plan, streamed, streamed=True)
    return segments


def _components(plan: Plan, units: Sequence[Unit], *, streamed: bool) -> Iterator[Segment]:
    parameters = parameters_by_component(plan.model)
    places = {name: i for i, name in enumerate(plan.footprint.by_component_bytes)}
    for name, count in _by_component(plan, units).items():
        paint: Paint = component_paint(places[name], streamed=streamed)
        whole = f"{format_count(parameters[name])} parameters in all"
        how = f"streamed over {plan.residency.link} in every pass" if streamed else "stays here"
        label = f"{name}, streamed" if streamed else name
        yield Segment(label, count, paint, f"{amount(count)}; {whole}; {how}")


def _by_component(plan: Plan, units: Sequence[Unit]) -> Mapping[str, int]:
    """Return the bytes of the units by the component of their layer, in the model's order."""
    component_of = {layer.name: c.name for c in plan.model.components for layer in c.layers}
    totals = dict.fromkeys(plan.footprint.by_component_bytes, 0)
    for unit in units:
        totals[component_of[layer_of(unit.name, component_of)]] += unit.footprint_bytes
    return {name: count for name, count in totals.items() if count}
