"""Where units of weights live under a strategy: kept in the fast tier or not, at home in which other tier."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tierline.errors import BudgetError
from tierline.machines.machine import Link, Machine
from tierline.place.knapsack import most_valuable
from tierline.place.placement import Unit, place
from tierline.plan.residency import allowed_bytes, routes
from tierline.plan.units import StoredLayer, stored_layers
from tierline.sim.demand import Demand, PassDemand
from tierline.sim.options import Options, PolicyName
from tierline.units import format_bytes

LOCAL = " (local)"
_TINY_SHARE = 128  # what is smaller than this part of a slot is not worth one of its own
_WHOLE_TENSORS = 2**62


@dataclass(frozen=True)
class Units:
    """The units that some phases use, by the layer that stores them.

    `main` are those that a pass of the phase with the most passes reads whole, in order; `staged` are read
    whole by other phases, `tables` only by the row. `traffic_bytes` is what all passes read of each.
    """

    stored: Mapping[str, StoredLayer]
    main: tuple[Unit, ...]
    staged: tuple[Unit, ...]
    tables: tuple[Unit, ...]
    traffic_bytes: Mapping[str, float]

    @cached_property
    def all(self) -> tuple[Unit, ...]:
        """Every unit, those that matter most first."""
        return (*self.main, *self.staged, *self.tables)

    @cached_property
    def footprint_bytes(self) -> int:
        """Bytes of all units."""
        return total_bytes(self.all)

    @cached_property
    def whole_bytes(self) -> int:
        """Bytes of the units that are read whole: with room for these, nothing is fetched twice."""
        return total_bytes(self.main) + total_bytes(self.staged)

    @cached_property
    def tiny_bytes(self) -> int:
        """What no larger than this is fetched without a slot of its own."""
        return self.slot_bytes // _TINY_SHARE

    @cached_property
    def riding_bytes(self) -> int:
        """Bytes of the units that take no slot."""
        tiny = self.tiny_bytes
        return sum(u.footprint_bytes for u in (*self.main, *self.staged) if u.footprint_bytes <= tiny)

    @cached_property
    def slot_bytes(self) -> int:
        """The largest unit that may have to pass through a staging slot."""
        return max((u.footprint_bytes for u in (*self.main, *self.staged)), default=0)


def used_units(demand: Demand, passes: Sequence[PassDemand], options: Options) -> Units:
    """Return the units that `passes` use, cut as fine as `options` say."""
    limit = {"layer": None, "tensor": _WHOLE_TENSORS, "tile": options.tile_bytes}[options.granularity]
    stored = stored_layers(demand.weights, limit)
    counts: dict[str, int] = {}
    for traversal in passes:
        counts[traversal.phase] = counts.get(traversal.phase, 0) + 1
    main_phase = max(reversed(counts), key=counts.__getitem__, default="")
    whole: dict[str, bool] = {}  # layer -> read by the main phase
    rows: dict[str, None] = {}
    traffic: dict[str, float] = {}
    for traversal in passes:
        for turn in traversal.turns:
            for read in turn.reads:
                owner = read.owner or turn.layer
                if owner not in stored:
                    continue
                traffic[owner] = traffic.get(owner, 0) + read.traffic_bytes
                if read.by_row:
                    rows.setdefault(owner)
                else:
                    whole[owner] = whole.get(owner, False) or traversal.phase == main_phase
    return Units(
        stored,
        tuple(u for owner, main in whole.items() if main for u in stored[owner].units),
        tuple(u for owner, main in whole.items() if not main for u in stored[owner].units),
        tuple(u for owner in rows if owner not in whole for u in stored[owner].units),
        {
            u.name: traffic[owner] * u.footprint_bytes / whole_bytes
            for owner, layer in stored.items()
            if owner in traffic
            for whole_bytes in (layer.footprint_bytes,)
            for u in layer.units
        },
    )


def pinned(units: Units, policy: PolicyName, capacity_bytes: int, slots: int, where: str) -> frozenset[str]:
    """Return the names of the units that stay, so that they and `slots` staging slots are within capacity.

    Everything, without slots, if it fits; of units that were cut in two (see `beside`) the local parts.
    Raises BudgetError, naming the tier `where`, if the slots do not fit.
    """
    local = [u for u in units.main if u.name.endswith(LOCAL)]
    left = capacity_bytes - total_bytes(local) - slots * units.slot_bytes
    if local and left >= 0:
        return frozenset([u.name for u in local] + _fill((*units.staged, *units.tables), left))
    if units.footprint_bytes <= capacity_bytes:
        return frozenset(u.name for u in units.all)
    room = capacity_bytes - slots * units.slot_bytes - units.riding_bytes
    if room < 0:
        raise BudgetError(
            f"{where}: {slots} staging slots of {format_bytes(units.slot_bytes)} need "
            f"{format_bytes(slots * units.slot_bytes)}, weights may use {format_bytes(capacity_bytes)}; "
            "use smaller units (--granularity tile) or a lower --prefetch-depth"
        )
    if policy == "pin-by-value":
        values = [units.traffic_bytes.get(u.name, 0.0) for u in units.all]
        chosen = most_valuable(values, [u.footprint_bytes for u in units.all], room)
        return frozenset(units.all[i].name for i in chosen)
    kept = place(units.main, room, slots=0, policy="prefix" if policy == "pin-prefix" else "spread")
    names = [u.name for u in kept.pinned] if kept else []
    left = room - (kept.pinned_bytes if kept else 0)
    return frozenset(names + _fill((*units.staged, *units.tables), left))


def _fill(units: Iterable[Unit], room: int) -> list[str]:
    """Return the names of the units that fit, first come first served."""
    names = []
    for unit in units:
        if unit.footprint_bytes <= room:
            names.append(unit.name)
            room -= unit.footprint_bytes
    return names


def beside(units: Units, local_share: float) -> Units:
    """Return `units` with each of the main ones cut in two: `local_share` of its bytes, and the rest.

    The first part is read over the fast tier's port while the second comes over a link beside it.
    """
    parts = {u.name: _cut(u, local_share, units.tiny_bytes) for u in units.main}
    stored = {
        name: StoredLayer(layer.layer, tuple(part for u in layer.units for part in parts.get(u.name, (u,))))
        for name, layer in units.stored.items()
    }
    traffic = dict(units.traffic_bytes)
    for unit in units.main:
        for part in parts[unit.name]:
            traffic[part.name] = traffic[unit.name] * part.footprint_bytes / unit.footprint_bytes
    main = tuple(part for u in units.main for part in parts[u.name])
    return Units(stored, main, units.staged, units.tables, traffic)


def _cut(unit: Unit, local_share: float, tiny_bytes: int) -> tuple[Unit, ...]:
    local = int(unit.footprint_bytes * local_share)
    if not 0 < local < unit.footprint_bytes or unit.footprint_bytes <= tiny_bytes:
        return (Unit(f"{unit.name}{LOCAL}", unit.footprint_bytes),)
    return (
        Unit(f"{unit.name}{LOCAL}", local),
        Unit(f"{unit.name} (beside)", unit.footprint_bytes - local),
    )


@dataclass(frozen=True, slots=True)
class Homes:
    """For every unit that is not in the fast tier alone, the route by which it comes; bytes by home tier."""

    routes: Mapping[str, tuple[Link, ...]]
    used_bytes: Mapping[str, int]


def homes(
    machine: Machine, units: Iterable[Unit], kept: frozenset[str], reserved_bytes: Mapping[str, int]
) -> Homes:
    """Return where units come from: streamed ones fill the tiers with the fastest routes first, evenly.

    Kept units come from where there is room left; without any they have no route and are in place from the
    start. `reserved_bytes` of other tiers are in use. Raises BudgetError where a streamed unit has no home.
    """
    found: dict[str, tuple[Link, ...]] = {}
    used: dict[str, int] = dict(reserved_bytes)
    units = tuple(units)
    streamed = [u for u in units if u.name not in kept]
    left: list[Unit] = streamed
    for group in (streamed, [u for u in units if u.name in kept]):
        left = list(group)
        for route in routes(machine):
            source = route[0].source
            room = allowed_bytes(machine.tier(source)) - used.get(source, 0)
            placed = place(left, max(0, room), slots=0)
            here = {u.name for u in placed.pinned} if placed else set()
            found |= dict.fromkeys(here, route)
            used[source] = used.get(source, 0) + sum(u.footprint_bytes for u in left if u.name in here)
            left = [u for u in left if u.name not in here]
        if left and group is streamed:
            raise BudgetError(
                f"{machine.name}: {format_bytes(total_bytes(left))} of weights have no home: no tier beside "
                f"{machine.fast.name} with a link of known rate has room for them; use smaller --weights or "
                "--set a larger capacity"
            )
    return Homes(found, used)


def total_bytes(units: Iterable[Unit]) -> int:
    """Return the bytes of `units`."""
    return sum(u.footprint_bytes for u in units)
