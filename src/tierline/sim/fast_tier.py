"""The fast tier as a simulation fills it: weights in a cache, staging, and KV that grows."""

from tierline.errors import BudgetError
from tierline.machines.machine import Tier
from tierline.place.cache import Cache, Fifo, Found, Lru, Pinned, Policy
from tierline.place.placement import Unit
from tierline.plan.residency import allowed_bytes
from tierline.sim.demand import Demand, PassDemand
from tierline.sim.layout import Units
from tierline.sim.options import PINNING, Options, Strategy
from tierline.units import format_bytes


class FastTier:
    """Everything in the fast tier; nothing is put there that its capacity does not allow."""

    def __init__(self, demand: Demand, options: Options) -> None:
        plan = demand.plan
        self.tier: Tier = plan.machine.fast
        self.cache = Cache(0, Fifo())
        self.staging_bytes = 0
        self.kv_elsewhere = False
        self.fixed_bytes = plan.footprint.others_bytes - plan.footprint.kv_cache_bytes
        if options.instructions == "streamed":
            self.fixed_bytes -= plan.footprint.program_bytes
        self._demand, self._options = demand, options
        self._physical: Cache | None = None
        self._kv: dict[tuple[str, int], int] = {}

    def kv_bytes(self, traversal: PassDemand) -> int:
        """Return the cache's footprint when a pass ends, wherever it is."""
        key = (traversal.phase, traversal.context)
        if key not in self._kv:
            self._kv[key] = self._demand.kv_bytes(*key)
        return self._kv[key]

    def kv_here_bytes(self, traversal: PassDemand) -> int:
        """Return the part of it that is in this tier."""
        return 0 if self.kv_elsewhere else self.kv_bytes(traversal)

    def weights_capacity_bytes(self, strategy: Strategy, last: PassDemand) -> int:
        """Return the bytes that weights and slots may use, so that KV can grow until the pass `last`.

        Resident weights are not limited beforehand: they stay until the pass in which something does not fit.
        """
        asked = self._options.capacity_bytes
        capacity = int(self.tier.capacity_bytes.value)
        if strategy == "resident":
            return capacity if asked is None else asked
        others = self.fixed_bytes + self.kv_here_bytes(last)
        usual = allowed_bytes(self.tier) - others
        return max(0, usual if asked is None else min(asked, capacity - others))

    def enter(self, policy: Policy, capacity_bytes: int, staging_bytes: int, last: PassDemand) -> str:
        """Change policy for a phase; return a note where weights may use more than is really free."""
        self.cache.policy, self.staging_bytes = policy, staging_bytes
        self.cache.capacity_bytes = max(0, capacity_bytes - staging_bytes)
        if isinstance(policy, Pinned):
            for name in [n for n in self.cache.resident if n not in policy.names]:
                self.cache.evict(name)
        self.cache.make_room(0, what="the next phase")
        free = max(0, allowed_bytes(self.tier) - self.fixed_bytes - self.kv_here_bytes(last))
        beyond = self.tier.free_bytes is not None and capacity_bytes > free
        self._physical = Cache(free, Lru()) if beyond else None
        if not beyond:
            return ""
        return (
            f"{self.tier.name}: weights may use {format_bytes(capacity_bytes)} but {format_bytes(free)} are "
            "free for them: what is used again beyond that has to be paged in"
        )

    def preload(self, units: Units) -> None:
        """Put in place what the policy keeps, as far as there is room."""
        for unit in units.all:
            free = self.cache.capacity_bytes - self.cache.used_bytes
            if unit.name in self.cache.resident or unit.footprint_bytes > free:
                continue
            if self.cache.policy.keeps(unit.name, unit.footprint_bytes, self.cache.resident, free):
                self.cache.load(unit.name, unit.footprint_bytes)

    def holds_table(self, tiles: tuple[Unit, ...], units: Units) -> bool:
        """Return whether a table is in memory whole, or would be: a cache takes it in if everything fits."""
        if isinstance(self.cache.policy, Pinned):
            return all(u.name in self.cache.policy.names for u in tiles)
        return units.footprint_bytes <= self.cache.capacity_bytes

    def pages_in(self, unit: Unit) -> bool:
        """Note a use of a unit; return whether the memory behind it was reclaimed since the last one."""
        if self._physical is None:
            return False
        if unit.footprint_bytes > self._physical.capacity_bytes:
            return True
        return self._physical.use(unit.name, unit.footprint_bytes) is not Found.HIT

    def check(self, traversal: PassDemand) -> None:
        """Evict for the KV cache that has grown; raise BudgetError, with the token, where that fails."""
        kv = self.kv_here_bytes(traversal)
        allowed = int(self.tier.capacity_bytes.value)
        room = allowed - kv - self.fixed_bytes - self.staging_bytes
        self.cache.capacity_bytes = min(self.cache.capacity_bytes, max(0, room))
        try:
            self.cache.make_room(0, what="")
        except BudgetError:
            room = -1
        if room < 0:
            plan = self._demand.plan
            raise BudgetError(
                f"{plan.model.name} on {plan.machine.name}: {traversal.phase} pass {traversal.index + 1}, "
                f"token {traversal.context:,}: KV {format_bytes(kv)}, weights "
                f"{format_bytes(self.cache.used_bytes)}, staging {format_bytes(self.staging_bytes)} and the "
                f"rest {format_bytes(self.fixed_bytes)} exceed the {format_bytes(allowed)} of "
                f"{self.tier.name}; stay below {traversal.context:,} tokens, or use --strategy tiered or "
                "kv-offload"
            )


def evicts(options: Options, strategy: Strategy) -> bool:
    """Return whether a strategy caches what it is asked for, rather than a set chosen beforehand."""
    return strategy == "layer-swap" and options.policy_of(strategy) not in PINNING
