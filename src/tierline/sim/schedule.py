"""From demand to passes through the pipeline: every unit's use is a hit or a fetch, within every capacity."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tierline.cost.layer_pass import OwnerRead
from tierline.errors import BudgetError
from tierline.machines.machine import Link
from tierline.place.cache import ONLINE_POLICIES, Belady, Counts, Found, Name, Pinned, Policy, online_policy
from tierline.place.placement import Unit
from tierline.plan.residency import allowed_bytes, routes
from tierline.sim.demand import Demand, PassDemand, Turn
from tierline.sim.fast_tier import FastTier, evicts
from tierline.sim.layout import Homes, Units, beside, homes, pinned, used_units
from tierline.sim.options import Options, PolicyName, Strategy
from tierline.sim.pipeline import Fetch, Pass
from tierline.units import GIB, KIB, format_bytes

DECOMPRESS = "decompress"
# What the kernel reads at once when a page that was reclaimed is touched: Linux's default read-ahead.
FAULT_BYTES = 128 * KIB
# Slots that keep a link busy which reads parts of layers beside the port: layers are not all alike.
_BESIDE_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s of compute (None where not known) and bytes/s of the port; whether they take turns."""

    flop_per_s: float | None
    port_bytes_per_s: float
    shared: bool

    def compute_s(self, flop: float) -> float:
        """Return the seconds of arithmetic, 0 where the rate is not known."""
        return flop / self.flop_per_s if self.flop_per_s is not None else 0.0

    def work_s(self, flop: float, port_bytes: float) -> float:
        """Return how long a step works: arithmetic beside reads, or after them on shared memory."""
        compute_s, port_s = self.compute_s(flop), port_bytes / self.port_bytes_per_s
        return compute_s + port_s if self.shared else max(compute_s, port_s)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """A pass as it is executed, what compute and the port do in it, and what the fast tier holds after it."""

    demand: PassDemand
    steps: Pass
    compute_s: float
    port_bytes: int
    weights_bytes: int
    staging_bytes: int
    kv_bytes: int
    others_bytes: int

    @property
    def resident_bytes(self) -> int:
        """Everything in the fast tier."""
        return self.weights_bytes + self.staging_bytes + self.kv_bytes + self.others_bytes


@dataclass(frozen=True)
class Schedule:
    """All passes, how they were arrived at, and how far fetches may run ahead.

    `row_reads` are fetches of table rows, which are new in every pass and never count as loads. `home_bytes`
    is what other tiers hold, `whole_bytes` all units that are read whole.
    """

    passes: tuple[PassPlan, ...]
    strategy: Strategy
    policy: PolicyName
    prefetch_depth: int
    by_step: bool
    counts: Counts
    row_reads: int
    page_ins: int
    whole_bytes: int
    home_bytes: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Steps:
    """The steps of one pass as they are put together."""

    names: list[str] = field(default_factory=list)
    fetches: list[Fetch | None] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    writes: list[Fetch | None] = field(default_factory=list)
    port_bytes: float = 0.0

    def add(self, name: str, fetch: Fetch | None, work: float, write: Fetch | None = None) -> None:
        self.names.append(name)
        self.fetches.append(fetch)
        self.work.append(work)
        self.writes.append(write)


def schedule(demand: Demand, options: Options, rates: Rates) -> Schedule:
    """Return every pass in order. Raises BudgetError at the first one in which something does not fit."""
    scheduler = _Scheduler(demand, options, rates)
    groups = list(_by_phase(demand.passes))
    strategies = [options.strategy_of(passes[0].phase) for passes in groups]
    made: list[PassPlan] = []
    depths: list[int] = []
    for passes, strategy in zip(groups, strategies, strict=True):
        together = [p for p, s in zip(groups, strategies, strict=True) if s == strategy]
        used = used_units(demand, [p for group in together for p in group], options)
        depths.append(scheduler.enter(strategy, used, passes))
        made += (scheduler.traverse(p) for p in passes)
    main = strategies[max(range(len(groups)), key=lambda i: (len(groups[i]), i))]
    return Schedule(
        passes=tuple(made),
        strategy=main,
        policy=options.policy_of(main),
        prefetch_depth=min(depths),
        by_step=any(evicts(options, s) for s in strategies),
        counts=scheduler.fast.cache.counts,
        row_reads=scheduler.row_reads,
        page_ins=scheduler.page_ins,
        whole_bytes=used_units(demand, demand.passes, options).whole_bytes,
        home_bytes=scheduler.homes.used_bytes,
        notes=tuple(scheduler.notes),
    )


class _Scheduler:
    """Walks through all passes in order with the state of the fast tier."""

    def __init__(self, demand: Demand, options: Options, rates: Rates) -> None:
        self.fast = FastTier(demand, options)
        self.homes = Homes({}, {})
        self.notes: list[str] = []
        self.row_reads = self.page_ins = 0
        self._demand, self._options, self._rates = demand, options, rates
        self._machine = demand.plan.machine
        self._routes = routes(self._machine)
        self._units = Units({}, (), (), (), {})
        self._kv_route: tuple[Link, ...] = ()
        self._recent: deque[Name] = deque(maxlen=0)
        self._fetches: dict[tuple[str, int, str], Fetch] = {}
        self._streams_all = False

    def enter(self, strategy: Strategy, units: Units, passes: Sequence[PassDemand]) -> int:
        """Set up the fast tier for a phase and return its prefetch depth."""
        plan, policy_name = self._demand.plan, self._options.policy_of(strategy)
        depth = 1 if strategy == "layer-swap" else plan.prefetch_depth
        last = max(passes, key=lambda p: p.context)
        self._kv_route = self._kv_home(last) if strategy == "kv-offload" else ()
        self.fast.kv_elsewhere = bool(self._kv_route)
        self._streams_all = strategy == "host-stream"
        capacity = self.fast.weights_capacity_bytes(strategy, last)
        share = self._beside_share(strategy, units, last)
        if share is not None:
            units, depth = beside(units, share), max(depth, _BESIDE_DEPTH)
        depth = self._options.prefetch_depth or depth
        self._recent = deque(maxlen=depth - 1)
        slot_bytes = max(units.slot_bytes, self._kv_slot_bytes(passes))
        staging = depth * slot_bytes + units.riding_bytes
        if evicts(self._options, strategy):
            staging = staging if policy_name == "belady-bypass" else 0
            policy: Policy = self._evicting(policy_name, units, passes, capacity - staging)
            kept = frozenset[str]()
        else:
            kept = self._kept(strategy, policy_name, units, capacity, depth)
            policy = Pinned(kept)
            if strategy == "resident" or (len(kept) == len(units.all) and not self._kv_route):
                staging = 0
        self._units = units
        note = self.fast.enter(policy, capacity, staging, last)
        self.notes += [note] if note else []
        self.notes += self._sizing(strategy, kept, last)
        self._find_homes(kept, last, evicting=evicts(self._options, strategy))
        if self._options.warm:
            self.fast.preload(units)
        return depth

    def _sizing(self, strategy: Strategy, kept: frozenset[str], last: PassDemand) -> list[str]:
        """Say what the sizes of a tiered placement rest on, and how far other choices would move them."""
        main, plan = self._units.main, self._demand.plan
        if strategy != "tiered" or self._options.capacity_bytes is not None or not main:
            return []
        count = sum(u.name in kept for u in main)
        if count == len(main):
            return []
        per_gib = GIB * len(main) / sum(u.footprint_bytes for u in main)
        return [
            f"{self.fast.tier.name} keeps {count} of {len(main)} units: sized from capacities alone, for a "
            f"context of {last.context:,} and a reserve of {format_bytes(plan.footprint.runtime_bytes)}; "
            f"every GiB more of KV cache or reserve keeps {per_gib:.1f} fewer"
        ]

    def _find_homes(self, kept: frozenset[str], last: PassDemand, *, evicting: bool) -> None:
        """Find where everything comes from; a machine without other tiers has in place what fits."""
        units = self._units
        if not self._routes and evicting and units.footprint_bytes <= self.fast.cache.capacity_bytes:
            kept = frozenset(u.name for u in units.all)
        reserved = {self._kv_route[0].source: self.fast.kv_bytes(last)} if self._kv_route else {}
        self.homes = homes(self._machine, units.all, kept, reserved)
        self._fetches.clear()

    def _evicting(self, name: PolicyName, units: Units, passes: Sequence[PassDemand], room: int) -> Policy:
        if name in ("belady", "belady-bypass"):
            tables = units.footprint_bytes <= room
            uses = [u.name for p in passes for t in p.turns for u in _cached_uses(t, units, tables=tables)]
            return Belady(uses, bypass=name == "belady-bypass")
        for online in ONLINE_POLICIES:
            if online == name:
                return online_policy(online, self._options.seed)
        return online_policy("random", self._options.seed)

    def _kept(
        self, strategy: Strategy, policy: PolicyName, units: Units, capacity: int, slots: int
    ) -> frozenset[str]:
        """Return what stays in the fast tier."""
        if strategy == "host-stream":
            return frozenset()
        if strategy == "resident":
            return frozenset(u.name for u in units.all)
        return pinned(units, policy, capacity, slots, self.fast.tier.name)

    def _beside_share(self, strategy: Strategy, units: Units, last: PassDemand) -> float | None:
        """Return the part of every unit that the port should read while a link reads the rest beside it.

        None where no link leads straight to compute. Both take equally long:
        `(local + other port bytes) / port = (bytes - local) / link`.
        """
        best = next(iter(self._routes), ())
        if strategy != "tiered" or not best or best[-1].target != "compute":
            return None
        rate = min(self._options.link_rates.get(x.name, x.rate.value) for x in best)
        port = self._rates.port_bytes_per_s
        others = sum(t.kv_read_bytes + t.kv_write_bytes + t.activation_bytes for t in last.turns)
        read = sum(u.footprint_bytes for u in units.main)
        local = max(0.0, (read + others) * port / (port + rate) - others)
        return local / read if read else None

    def _kv_home(self, last: PassDemand) -> tuple[Link, ...]:
        wanted = self.fast.kv_bytes(last)
        for route in self._routes:
            if allowed_bytes(self._machine.tier(route[0].source)) >= wanted:
                return route
        raise BudgetError(
            f"{self._machine.name}: the KV cache of {format_bytes(wanted)} has no home beside "
            f"{self.fast.tier.name}; use a shorter --context or --set a larger capacity"
        )

    def _kv_slot_bytes(self, passes: Sequence[PassDemand]) -> int:
        if not self._kv_route:
            return 0
        return max(t.kv_read_bytes + t.kv_write_bytes for p in passes for t in p.turns)

    def traverse(self, traversal: PassDemand) -> PassPlan:
        """Return one pass as it is executed."""
        self.fast.check(traversal)
        steps = _Steps()
        if traversal.draft_s:
            steps.add("draft", None, traversal.draft_s)
        program_bytes = self._demand.plan.footprint.program_bytes
        if program_bytes and self._options.instructions == "streamed" and self._routes:
            steps.add("program", self._fetch("program", program_bytes, self._routes[0], "program"), 0.0)
        for turn in traversal.turns:
            self._turn(turn, steps)
        self.fast.check(traversal)  # again, with what the pass has fetched
        flop = sum(t.flop for t in traversal.turns)
        return PassPlan(
            traversal,
            Pass(steps.names, steps.fetches, steps.work, steps.writes if any(steps.writes) else ()),
            self._rates.compute_s(flop) + traversal.draft_s,
            round(steps.port_bytes),
            self.fast.cache.used_bytes,
            self.fast.staging_bytes,
            self.fast.kv_here_bytes(traversal),
            self.fast.fixed_bytes,
        )

    def _turn(self, turn: Turn, steps: _Steps) -> None:
        """Add the steps of one layer: one per unit of weights, which share its work by their bytes."""
        other = turn.activation_bytes
        if self._kv_route and turn.kv_read_bytes + turn.kv_write_bytes:
            self._offloaded(turn, steps)
        else:
            other += turn.kv_read_bytes + turn.kv_write_bytes
        uses = [use for read in turn.reads for use in self._uses(turn, read)]
        found = [(unit.name, count, *self._use(unit, count, rows=rows)) for unit, count, rows in uses]
        through_port = sum(count for _, count, _, local in found if local)
        total = through_port or sum(count for _, count, _, _ in found)
        if not total:
            if other or turn.flop:
                steps.port_bytes += other
                steps.add(turn.layer, None, self._rates.work_s(turn.flop, other))
            return
        weighed = sum(count for _, count, _, _ in found)
        for name, count, fetch, local in found:
            port = (count if local else 0) + (other * count / total if local or not through_port else 0)
            steps.port_bytes += port
            steps.add(name, fetch, self._rates.work_s(turn.flop * count / weighed, port))

    def _uses(self, turn: Turn, read: OwnerRead) -> Iterator[tuple[Unit, int, bool]]:
        """Yield (unit, bytes read of it, whether these are rows of a table that is not in memory whole)."""
        owner = read.owner or turn.layer
        layer = self._units.stored.get(owner)
        if layer is None:  # what no file holds is made at load and stays
            yield Unit(owner, 0), read.traffic_bytes, True
            return
        if read.by_row and not self.fast.holds_table(layer.units, self._units):
            yield Unit(f"rows of {owner}", read.traffic_bytes), read.traffic_bytes, True
            return
        done, whole = 0, layer.footprint_bytes
        for unit in layer.units:
            upto = done + unit.footprint_bytes
            yield unit, read.traffic_bytes * upto // whole - read.traffic_bytes * done // whole, False
            done = upto

    def _use(self, unit: Unit, count: int, *, rows: bool) -> tuple[Fetch | None, bool]:
        """Return what has to be fetched for a use, and whether compute then reads it over the port."""
        if rows:
            route = self._row_route(unit)
            if not route:
                return None, True
            self.row_reads += 1
            return self._fetch(unit.name, count, route, "rows", on_demand=True), self._passes_port(route)
        found = self.fast.cache.use(unit.name, unit.footprint_bytes, self._recent)
        self._recent.append(unit.name)
        kept = unit.name in self.fast.cache.resident
        reclaimed = kept and self.fast.pages_in(unit)
        route = self.homes.routes.get(unit.name, ())
        if found is Found.HIT or not route:
            return self._page_in(unit) if reclaimed and found is Found.HIT else None, True
        cause = "streaming" if self._streams_all else found.value
        fetch = self._fetch(unit.name, unit.footprint_bytes if kept else count, route, cause)
        return fetch, kept or self._passes_port(route)

    def _page_in(self, unit: Unit) -> Fetch | None:
        """Return the page faults that a hit costs where the memory was reclaimed in the meantime."""
        below = [r for r in self._routes if r[-1].target == self.fast.tier.name]
        if not below:
            return None
        self.page_ins += 1
        faults = -(-unit.footprint_bytes // FAULT_BYTES)
        path = (below[-1][-1].name,)
        return Fetch(unit.name, unit.footprint_bytes, path, on_demand=True, requests=faults, cause="page-in")

    def _offloaded(self, turn: Turn, steps: _Steps) -> None:
        """Add the step that reads a layer's cache back and writes what the pass adds to it."""
        name, route = f"kv of {turn.layer}", self._kv_route
        read = self._fetch(name, turn.kv_read_bytes, route, "kv") if turn.kv_read_bytes else None
        back = tuple(link.name for link in reversed(route))
        write = Fetch(name, turn.kv_write_bytes, back, cause="kv") if turn.kv_write_bytes else None
        port = (turn.kv_read_bytes + turn.kv_write_bytes) if self._passes_port(route) else 0
        steps.port_bytes += port
        steps.add(name, read, self._rates.work_s(0, port), write)

    def _passes_port(self, route: tuple[Link, ...]) -> bool:
        return route[-1].target != "compute" and self._options.through == "local"

    def _row_route(self, rows: Unit) -> tuple[Link, ...]:
        """Return the route of a table's rows, that of its first tile; () where there is nothing to fetch."""
        layer = self._units.stored.get(rows.name.removeprefix("rows of "))
        if layer is None or not rows.footprint_bytes:
            return ()
        return self.homes.routes.get(layer.units[0].name, ())

    def _fetch(
        self, name: str, count: int, route: tuple[Link, ...], cause: str, *, on_demand: bool = False
    ) -> Fetch:
        key = (name, count, cause)
        if key not in self._fetches:
            path = tuple(link.name for link in route)
            if self._options.decompress_bytes_per_s is not None and cause not in ("kv", "program"):
                path = (*path, DECOMPRESS)
            slot = count > self._units.tiny_bytes or cause == "kv"
            self._fetches[key] = Fetch(name, count, path, on_demand, cause=cause, slot=slot)
        return self._fetches[key]


def _cached_uses(turn: Turn, units: Units, *, tables: bool) -> Iterator[Unit]:
    """Yield the units that go through a demand cache in a turn, in order."""
    for read in turn.reads:
        layer = units.stored.get(read.owner or turn.layer)
        if layer is not None and (tables or not read.by_row):
            yield from layer.units


def _by_phase(passes: Sequence[PassDemand]) -> Iterator[list[PassDemand]]:
    group: list[PassDemand] = []
    for traversal in passes:
        if group and group[0].phase != traversal.phase:
            yield group
            group = []
        group.append(traversal)
    if group:
        yield group
