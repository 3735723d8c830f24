"""Which strategy a machine allows: everything resident, some of it streamed over a link, or neither."""

from collections.abc import Mapping, Sequence, Set

from tierline.machines.machine import Link, Machine, Tier
from tierline.place.placement import Placement, Unit, place
from tierline.plan.plan import Residency
from tierline.plan.units import StoredLayer

PREFETCH_DEPTH = 2


def allowed_bytes(tier: Tier) -> int:
    """Return what may be used of a tier: its capacity, or what is free of it where that is known and less."""
    capacity = int(tier.capacity_bytes.value)
    return capacity if tier.free_bytes is None else min(capacity, int(tier.free_bytes.value))


def reside(
    machine: Machine,
    stored: Mapping[str, StoredLayer],
    order: Sequence[str],
    whole: Set[str],
    capacity_bytes: int,
    *,
    prefetch_depth: int = PREFETCH_DEPTH,
) -> Residency:
    """Return where the weights live if `capacity_bytes` of the fast tier are theirs, staging slots included.

    Units that the main phase reads in `order` are placed first, since they cost traffic in every pass; what
    room is left goes to the others. Layers not in `whole` are tables that every phase reads by the row, which
    takes no slot. Impossible where no route comes from a tier that can hold the streamed units, or where not
    even the slots fit.
    """
    main = [unit for name in order if name in stored for unit in stored[name].units]
    others = [layer for name, layer in stored.items() if name not in order]
    staged = [unit for layer in others if layer.layer in whole for unit in layer.units]
    spare = [*staged, *(unit for layer in others if layer.layer not in whole for unit in layer.units)]
    if _total(main) + _total(spare) <= capacity_bytes:
        return Residency("resident", Placement(tuple(main), (), 0, 0, capacity_bytes), tuple(spare))
    placement = _place_main(main, staged, capacity_bytes, prefetch_depth)
    if placement is None:
        return _impossible(main, spare, capacity_bytes)
    room = capacity_bytes - placement.pinned_bytes - placement.staging_bytes
    kept, streamed = _fill(spare, room)
    route = _route_for(machine, placement.streamed_bytes + _total(streamed))
    if route is None:
        return _impossible(main, spare, capacity_bytes)
    names = tuple(link.name for link in route)
    return Residency("streamed", placement, kept, streamed, names, slowest(route).name, route[0].source)


def _place_main(
    main: Sequence[Unit], staged: Sequence[Unit], capacity_bytes: int, prefetch_depth: int
) -> Placement | None:
    """Return a placement of what the main phase reads whole; slots serve the `staged` units too."""
    main_bytes = _total(main)
    if main_bytes + _total(staged) <= capacity_bytes:
        return Placement(tuple(main), (), 0, 0, capacity_bytes)
    slot_bytes = max(u.footprint_bytes for u in (*main, *staged))
    if main_bytes + prefetch_depth * slot_bytes <= capacity_bytes:
        return Placement(tuple(main), (), prefetch_depth, slot_bytes, capacity_bytes)
    within = min(capacity_bytes, main_bytes - 1)  # some of it streams, if only to leave room for the slots
    return place(main, within, slots=prefetch_depth, slot_bytes=slot_bytes) if within > 0 else None


def routes(machine: Machine) -> list[tuple[Link, ...]]:
    """Return the ways by which data comes from another tier to the fast one or straight to compute.

    Each is the links in the order of travel; the one whose slowest link is fastest comes first, and of equals
    the shortest. Links without a known rate are no way.
    """
    known = [x for x in machine.links if x.rate.sustained or x.rate.peak]
    found: list[tuple[Link, ...]] = []
    growing: list[tuple[Link, ...]] = [(x,) for x in known if x.target in (machine.fast.name, "compute")]
    growing = [way for way in growing if way[0].source != machine.fast.name]
    while growing:
        found += growing
        growing = [
            (x, *way)
            for way in growing
            for x in known
            if x.target == way[0].source
            and x.source not in (machine.fast.name, *(y.source for y in way), *(y.target for y in way))
        ]
    return sorted(found, key=lambda way: (-slowest(way).rate.value, len(way)))


def slowest(route: Sequence[Link]) -> Link:
    """Return the link that limits a route."""
    return min(route, key=lambda link: link.rate.value)


def _route_for(machine: Machine, streamed_bytes: int) -> tuple[Link, ...] | None:
    for route in routes(machine):
        if allowed_bytes(machine.tier(route[0].source)) >= streamed_bytes:
            return route
    return None


def _impossible(main: Sequence[Unit], spare: Sequence[Unit], capacity_bytes: int) -> Residency:
    """Describe everything resident, as what would be needed."""
    return Residency("impossible", Placement(tuple(main), (), 0, 0, capacity_bytes), tuple(spare))


def _fill(units: Sequence[Unit], room: int) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    kept, streamed = [], []
    for unit in units:
        if unit.footprint_bytes <= room:
            kept.append(unit)
            room -= unit.footprint_bytes
        else:
            streamed.append(unit)
    return tuple(kept), tuple(streamed)


def _total(units: Sequence[Unit]) -> int:
    return sum(u.footprint_bytes for u in units)
