"""From a draft to a Machine: link types expanded, compute multiplied out, parts checked together."""

from tierline.errors import InputError
from tierline.machines.draft import COMPUTE_FORMATS, HOST, Draft
from tierline.machines.links import derived, link_type
from tierline.machines.machine import Compute, Interconnect, Link, Machine, Rate, Tier
from tierline.sourced import Sourced

COMPUTE = "compute"


def build(draft: Draft) -> Machine:
    """Return the machine that `draft` describes; raise InputError where its parts do not fit together."""
    if not draft.tiers:
        raise InputError(f"{draft.name}: has no tier; add [tiers.NAME] with a capacity")
    return Machine(
        name=draft.name,
        title=draft.title,
        tiers=tuple(_tier(draft, name) for name in draft.tiers),
        links=tuple(_link(draft, name) for name in draft.links),
        compute=tuple(_compute(draft, name) for name in draft.compute),
        runtime_bytes=draft.numbers.get("runtime"),
        price=draft.numbers.get("price"),
        shared_memory=draft.shared_memory,
        notes=draft.notes,
        calibration=draft.calibration,
    )


def _tier(draft: Draft, name: str) -> Tier:
    capacity = draft.numbers.get(f"{name}.capacity")
    if capacity is None:
        raise InputError(
            f"{draft.name}: tier {name} has no capacity; add it to the file or --set {name}.capacity="
        )
    free = draft.numbers.get(f"{name}.free")
    if free is not None and free.value > capacity.value:
        raise InputError(f"{draft.name}: tier {name} has more bytes free than its capacity")
    peak, sustained = draft.numbers.get(f"{name}.peak"), draft.numbers.get(f"{name}.sustained")
    rate = _rate(draft, name, peak, sustained)
    return Tier(
        name, capacity, rate, draft.numbers.get(f"{name}.latency"), free, draft.numbers.get(f"{name}.energy")
    )


def _link(draft: Draft, name: str) -> Link:
    route = draft.links[name]
    for end in (route.source, route.target):
        if end not in draft.tiers and (end != COMPUTE or end == route.source):
            fix = 'add host = "desktop-ddr5" or another machine' if end == HOST else "add that tier"
            raise InputError(f"{draft.name}: link {name} ends at {end!r}, which is no tier; {fix}")
    if route.source == route.target:
        raise InputError(f"{draft.name}: link {name} goes from {route.source} to itself")
    rate, latency = _way(draft, name, route.type)
    return Link(name, route.source, route.target, rate, latency, draft.numbers.get(f"{name}.energy"))


def interconnect(draft: Draft, name: str) -> Interconnect:
    """Return the interconnect `name` of `draft`; raise InputError where it has no rate."""
    join = draft.joins[name]
    rate, latency = _way(draft, name, join.type)
    energy = draft.numbers.get(f"{name}.energy")
    return Interconnect(name, join.topology, rate, latency, energy, join.group)


def _way(draft: Draft, name: str, type_name: str | None) -> tuple[Rate, Sourced | None]:
    """Return the rate and latency of a link or an interconnect: its own numbers, else those of its type."""
    peak, sustained, latency = (draft.numbers.get(f"{name}.{f}") for f in ("peak", "sustained", "latency"))
    if type_name is not None:
        kind = link_type(type_name, draft.name)
        chosen = draft.numbers[f"{name}.{kind.parameter}"]
        lanes = draft.numbers.get(f"{name}.lanes")
        where = f"{draft.name}: {name}"
        # A sustained rate derived from the type would belie a peak that the file gives for itself.
        if sustained is None and peak is None:
            sustained = kind.sustained(chosen, lanes, where)
        peak = peak or kind.peak(chosen, lanes, where)
        latency = latency or kind.latency
    count = draft.numbers.get(f"{name}.count")
    if count is not None:  # as many in parallel, what crosses them striped
        peak, sustained = (n and derived(n.value * count.value, n, count) for n in (peak, sustained))
    rate = _rate(draft, name, peak, sustained)
    if rate is None:
        raise InputError(f"{draft.name}: link {name} has no rate; give peak, sustained or a type")
    return rate, latency


def _rate(draft: Draft, name: str, peak: Sourced | None, sustained: Sourced | None) -> Rate | None:
    if peak is None and sustained is None:
        return None
    if peak is not None and sustained is not None and sustained.value > peak.value:
        raise InputError(
            f"{draft.name}: {name}: sustained {sustained.value:g} is above peak {peak.value:g} (base units "
            f"per second); correct one of them, or set both"
        )
    return Rate(peak, sustained)


def _compute(draft: Draft, name: str) -> Compute:
    count, clock = draft.numbers.get(f"{name}.count"), draft.numbers.get(f"{name}.clock")
    rates: dict[str, Rate] = {}
    for fmt in COMPUTE_FORMATS:
        path = f"{name}.{fmt}"
        peak, sustained, operations = (
            draft.numbers.get(f"{path}.{f}") for f in ("peak", "sustained", "ops_per_cycle")
        )
        if peak is not None and operations is not None:
            raise InputError(f"{draft.name}: {path}: give peak or ops_per_cycle, not both")
        # Without a sourced count and clock the product is unknown, and stays so.
        if operations is not None and count is not None and clock is not None:
            peak = derived(count.value * operations.value * clock.value, count, operations, clock)
        rate = _rate(draft, path, peak, sustained)
        if rate is not None:
            rates[fmt] = rate
    return Compute(name, rates, count, clock, draft.numbers.get(f"{name}.energy"))
