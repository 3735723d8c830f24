"""Which weights are pinned in the fast memory and which are streamed on every pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Policy = Literal["spread", "prefix"]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is pinned or streamed as a whole: a tensor or a tile of one, in the order a pass reads it."""

    name: str
    footprint_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Units by home: `pinned` stay, `streamed` are read once per pass, in order, through `slots` slots.

    `slot_bytes` is the size of one slot, at least the largest streamed unit. `capacity_bytes` is what was
    allowed; pinned bytes and slots together never exceed it.
    """

    pinned: tuple[Unit, ...]
    streamed: tuple[Unit, ...]
    slots: int
    slot_bytes: int
    capacity_bytes: int

    @property
    def pinned_bytes(self) -> int:
        """Bytes that stay in the fast memory."""
        return sum(u.footprint_bytes for u in self.pinned)

    @property
    def streamed_bytes(self) -> int:
        """Bytes that are read over the link on every pass."""
        return sum(u.footprint_bytes for u in self.streamed)

    @property
    def staging_bytes(self) -> int:
        """Bytes of all slots."""
        return self.slots * self.slot_bytes


def smallest_capacity(units: Sequence[Unit], *, slots: int) -> int:
    """Return the least bytes in which `units` can be streamed at all: the slots, or everything if less."""
    total = sum(u.footprint_bytes for u in units)
    return min(total, slots * max((u.footprint_bytes for u in units), default=0))


def place(
    units: Sequence[Unit],
    capacity_bytes: int,
    *,
    slots: int,
    slot_bytes: int = 0,
    policy: Policy = "spread",
    shared: bool = False,
) -> Placement | None:
    """Return a placement of `units` within `capacity_bytes`, or None where even the slots do not fit.

    If everything fits, everything is pinned and there are no slots, or those of `slot_bytes` where they are
    `shared` with what is streamed besides `units`. Otherwise the slots (each of
    `slot_bytes`, or as large as the largest unit) come first and pinned units fill the rest, unit by unit.
    `spread` distributes the streamed bytes evenly over the pass, so that the link is never idle while a run
    of pinned units computes: it pins unit k as long as the pinned share of the bytes passed so far is below
    the share that can be pinned at all, and a second walk fills the remainder. `prefix` pins from the front
    (for comparison: with two slots it stalls at the end of the pinned run).
    """
    total = sum(u.footprint_bytes for u in units)
    least_slots, least_bytes = (slots, slot_bytes) if shared else (0, 0)
    if total + least_slots * least_bytes <= capacity_bytes:
        return Placement(tuple(units), (), least_slots, least_bytes, capacity_bytes)
    slot_bytes = max([slot_bytes, *(u.footprint_bytes for u in units)])
    room = capacity_bytes - slots * slot_bytes
    if room < 0:
        return None
    chosen = _spread(units, room) if policy == "spread" else set[int]()
    left = room - sum(units[i].footprint_bytes for i in chosen)
    for i, unit in enumerate(units):
        if i not in chosen and unit.footprint_bytes <= left:
            chosen.add(i)
            left -= unit.footprint_bytes
    pinned = tuple(u for i, u in enumerate(units) if i in chosen)
    streamed = tuple(u for i, u in enumerate(units) if i not in chosen)
    return Placement(pinned, streamed, slots, slot_bytes, capacity_bytes)


def _spread(units: Sequence[Unit], room: int) -> set[int]:
    """Return indices whose bytes follow the line from 0 to `room` over the pass, never above it."""
    total = sum(u.footprint_bytes for u in units)
    chosen: set[int] = set()
    passed = pinned = 0
    for i, unit in enumerate(units):
        passed += unit.footprint_bytes
        if (pinned + unit.footprint_bytes) * total <= room * passed:
            chosen.add(i)
            pinned += unit.footprint_bytes
    return chosen
