"""Which strategy a machine allows: everything resident, some of it streamed over a link, or neither."""

from collections.abc import Mapping, Sequence

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
    capacity_bytes: int,
    *,
    prefetch_depth: int = PREFETCH_DEPTH,
) -> Residency:
    """Return where the weights live if `capacity_bytes` of the fast tier are theirs, staging slots included.

    Units that the main phase reads in `order` are placed first, since they cost traffic in every pass; what
    room is left goes to the others. Impossible where no link comes from a tier that can hold the streamed
    ones, or where not even the slots fit.
    """
    main = [unit for name in order if name in stored for unit in stored[name].units]
    spare = [unit for name, layer in stored.items() if name not in order for unit in layer.units]
    main_bytes, spare_bytes = _total(main), _total(spare)
    if main_bytes + spare_bytes <= capacity_bytes:
        return Residency("resident", Placement(tuple(main), (), 0, 0, capacity_bytes), tuple(spare))
    slot_bytes = max(u.footprint_bytes for u in (*main, *spare))
    staging_bytes = prefetch_depth * slot_bytes
    if main_bytes + staging_bytes <= capacity_bytes:
        placement = Placement(tuple(main), (), prefetch_depth, slot_bytes, capacity_bytes)
    else:
        within = min(
            capacity_bytes, main_bytes - 1
        )  # some of it streams, if only to leave room for the slots
        found = place(main, within, slots=prefetch_depth, slot_bytes=slot_bytes) if within > 0 else None
        if found is None:
            return _impossible(main, spare, capacity_bytes)
        placement = found
    room = capacity_bytes - placement.pinned_bytes - placement.staging_bytes
    kept, streamed = _fill(spare, room)
    link = _link_for(machine, placement.streamed_bytes + _total(streamed))
    if link is None:
        return _impossible(main, spare, capacity_bytes)
    return Residency("streamed", placement, kept, streamed, link.name, link.source)


def incoming_links(machine: Machine) -> list[Link]:
    """Return the links that bring data from another tier to the fast one or to compute, fastest first."""
    fast = machine.fast.name
    links = [x for x in machine.links if x.target in (fast, "compute") and x.source != fast]
    known = [x for x in links if x.rate.sustained or x.rate.peak]
    return sorted(known, key=lambda link: -link.rate.value)


def _link_for(machine: Machine, streamed_bytes: int) -> Link | None:
    for link in incoming_links(machine):
        if allowed_bytes(machine.tier(link.source)) >= streamed_bytes:
            return link
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
