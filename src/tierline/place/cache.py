"""A local memory that caches units of weights, and the policies that decide what it keeps.

Which unit is found where depends on the order of uses alone, not on when they happen, so that caches are
walked before anything is timed.
"""

import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol, get_args

from tierline.errors import BudgetError
from tierline.units import format_bytes

Name = Hashable


class Found(Enum):
    """How a use found its unit: in memory, never fetched before, or fetched before and gone since."""

    HIT = "hit"
    COLD = "cold load"
    RELOAD = "reload"


@dataclass(slots=True)
class Counts:
    """What a cache did. A unit that passes through a staging slot without being kept is never evicted."""

    hits: int = 0
    cold_loads: int = 0
    evictions: int = 0
    reloads: int = 0
    cold_bytes: int = 0
    reload_bytes: int = 0

    @property
    def moved_bytes(self) -> int:
        """Bytes that were fetched."""
        return self.cold_bytes + self.reload_bytes


class Policy(Protocol):
    """Decides what is kept and what leaves. `resident` holds the bytes of units, in the policy's order."""

    def keeps(
        self, name: Name, footprint_bytes: int, resident: Mapping[Name, int], free_bytes: int, /
    ) -> bool:
        """Return whether a unit that was just missed is kept after its use."""

    def used(self, name: Name, resident: dict[Name, int], /) -> None:
        """Take note of a use, before it is known whether it hits; may reorder `resident`."""

    def victim(self, resident: Mapping[Name, int], in_use: Set[Name], /) -> Name | None:
        """Return the unit to remove next, none of `in_use`; None where there is no other."""


class _KeepsAll:
    def keeps(self, *_: object) -> bool:
        """Keep everything."""
        return True


class _IgnoresUses:
    def used(self, *_: object) -> None:
        """Ignore uses."""


class _FirstLeaves:
    def victim(self, resident: Mapping[Name, int], in_use: Set[Name]) -> Name | None:
        """Return the first."""
        return next((n for n in resident if n not in in_use), None)


class Fifo(_KeepsAll, _IgnoresUses, _FirstLeaves):
    """Removes what came first."""


class Lru(_KeepsAll, _FirstLeaves):
    """Removes what was used longest ago."""

    def used(self, name: Name, resident: dict[Name, int]) -> None:
        """Move the unit to the end."""
        if name in resident:
            resident[name] = resident.pop(name)


class Lfu(_KeepsAll):
    """Removes what was used least often since the start; of equals what came first."""

    def __init__(self) -> None:
        self._uses: dict[Name, int] = {}

    def used(self, name: Name, *_: object) -> None:
        """Count the use."""
        self._uses[name] = self._uses.get(name, 0) + 1

    def victim(self, resident: Mapping[Name, int], in_use: Set[Name]) -> Name | None:
        """Return the one with the fewest uses."""
        return min((n for n in resident if n not in in_use), key=lambda n: self._uses.get(n, 0), default=None)


class RandomChoice(_KeepsAll, _IgnoresUses):
    """Removes any, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation, not a secret

    def victim(self, resident: Mapping[Name, int], in_use: Set[Name]) -> Name | None:
        """Return any."""
        names = [n for n in resident if n not in in_use]
        return self._random.choice(names) if names else None


# The policies that need not know what comes: what an engine can follow.
OnlinePolicyName = Literal["fifo", "lru", "lfu", "random"]
ONLINE_POLICIES: tuple[OnlinePolicyName, ...] = get_args(OnlinePolicyName)


def online_policy(name: OnlinePolicyName, seed: int = 0) -> Policy:
    """Return a policy that needs no knowledge of uses to come; `seed` is for `random`."""
    if name == "fifo":
        return Fifo()
    if name == "lru":
        return Lru()
    return Lfu() if name == "lfu" else RandomChoice(seed)


class Belady:
    """Removes what is used again last (Belady, IBM Systems Journal 5(2), 1966), knowing all uses to come.

    With `bypass`, a unit that would be the next to leave is not kept at all. Optimal for units of one size.
    """

    def __init__(self, uses: Sequence[Name], *, bypass: bool = False) -> None:
        self._bypass = bypass
        never = len(uses)
        self._never = never
        self._next: list[int] = [never] * len(uses)
        last: dict[Name, int] = {}
        for i in range(len(uses) - 1, -1, -1):
            self._next[i] = last.get(uses[i], never)
            last[uses[i]] = i
        self._now = -1
        self._again = last  # before the first use, that is when it is

    def keeps(self, name: Name, footprint_bytes: int, resident: Mapping[Name, int], free_bytes: int) -> bool:
        """Keep everything, or with bypass only what is used again before what would leave for it."""
        if not self._bypass:
            return True
        again = self._again[name]
        for other in sorted(resident, key=self._when, reverse=True):
            if free_bytes >= footprint_bytes or self._when(other) <= again:
                break
            free_bytes += resident[other]
        return free_bytes >= footprint_bytes and again < self._never

    def used(self, name: Name, *_: object) -> None:
        """Note when the unit is used next."""
        self._now += 1
        self._again[name] = self._next[self._now]

    def victim(self, resident: Mapping[Name, int], in_use: Set[Name]) -> Name | None:
        """Return the unit that is used again last."""
        return max((n for n in resident if n not in in_use), key=self._when, default=None)

    def _when(self, name: Name) -> int:
        return self._again.get(name, self._never)


class Pinned(_IgnoresUses):
    """Keeps a fixed set; everything else passes through staging slots."""

    def __init__(self, names: Set[Name]) -> None:
        self.names = names

    def keeps(self, name: Name, *_: object) -> bool:
        """Keep what is pinned."""
        return name in self.names

    def victim(self, resident: Mapping[Name, int], in_use: Set[Name]) -> Name | None:
        """Return something that another policy left behind; what is pinned never leaves."""
        return next((n for n in resident if n not in self.names and n not in in_use), None)


class Cache:
    """Units in a memory of `capacity_bytes`, which is never exceeded."""

    def __init__(
        self, capacity_bytes: int, policy: Policy, evicted: Callable[[Name], object] | None = None
    ) -> None:
        """Tell `evicted`, if there is one, of every unit that is removed."""
        self.policy, self._evicted = policy, evicted
        self.counts = Counts()
        self.resident: dict[Name, int] = {}
        self.used_bytes = 0
        self.capacity_bytes = capacity_bytes
        self._seen: set[Name] = set()

    def use(self, name: Name, footprint_bytes: int, in_use: Iterable[Name] = ()) -> Found:
        """Use a unit, fetching it if it is not resident and keeping it if the policy says so.

        `in_use` are units that may not leave now. Raises BudgetError where a unit that is kept finds no room.
        """
        self.policy.used(name, self.resident)
        if name in self.resident:
            self.counts.hits += 1
            return Found.HIT
        found = Found.RELOAD if name in self._seen else Found.COLD
        self._seen.add(name)
        if found is Found.COLD:
            self.counts.cold_loads += 1
            self.counts.cold_bytes += footprint_bytes
        else:
            self.counts.reloads += 1
            self.counts.reload_bytes += footprint_bytes
        free_bytes = self.capacity_bytes - self.used_bytes
        if self.policy.keeps(name, footprint_bytes, self.resident, free_bytes):
            self.make_room(footprint_bytes, in_use, what=str(name))
            self.resident[name] = footprint_bytes
            self.used_bytes += footprint_bytes
        return found

    def make_room(self, wanted_bytes: int, in_use: Iterable[Name] = (), *, what: str) -> None:
        """Evict until `wanted_bytes` are free for `what`; raise BudgetError if that fails."""
        held = frozenset(in_use)
        while self.used_bytes + wanted_bytes > self.capacity_bytes:
            gone = self.policy.victim(self.resident, held)
            if gone is None:
                raise BudgetError(
                    f"{what} needs {format_bytes(wanted_bytes)} beside {format_bytes(self.used_bytes)} of "
                    f"weights that have to stay, of {format_bytes(self.capacity_bytes)}: raise the capacity, "
                    "use smaller units (--granularity tile), a lower --prefetch-depth or another --strategy"
                )
            self.evict(gone)

    def evict(self, name: Name) -> None:
        """Remove a resident unit."""
        self.used_bytes -= self.resident.pop(name)
        self.counts.evictions += 1
        if self._evicted is not None:
            self._evicted(name)

    def load(self, name: Name, footprint_bytes: int) -> None:
        """Put a unit in place beforehand, uncounted."""
        self.make_room(footprint_bytes, what=str(name))
        self._seen.add(name)
        self.resident[name] = footprint_bytes
        self.used_bytes += footprint_bytes


def walk(cache: Cache, uses: Iterable[tuple[Name, int]]) -> list[Found]:
    """Return how each of `uses` (unit, bytes) is found, in order."""
    return [cache.use(name, footprint_bytes) for name, footprint_bytes in uses]
