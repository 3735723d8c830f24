"""One FIFO link without events: the times of each step follow from those of the steps before (max-plus)."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tierline.sim.kernel import Number

# How a step gets its bytes: it has them; in turn, through a slot; in turn, without one; at once when needed.
HERE, QUEUED, RIDING, NEEDED = range(4)


@dataclass(frozen=True, slots=True)
class Steps:
    """All steps of some passes: how each gets its bytes, seconds of that transfer and of its work.

    `limits` are the steps before which passes end.
    """

    kinds: Sequence[int]
    transfers: Sequence[Number]
    works: Sequence[Number]
    limits: Sequence[int]


def run_fifo(
    steps: Steps, prefetch_depth: int, *, by_step: bool, wrap: bool, zero: Number
) -> tuple[list[Number], list[Number], list[Number]]:
    """Return when each transfer begins, in order of the steps, and when each step begins and ends its work.

    The recurrence: `transfer = max(link, slot) + seconds`, `step = max(step, transfer) + work`. A transfer
    that is needed at once waits for those of later steps that have begun by then. `by_step`: every step holds
    a slot, not only those that are queued for one.
    """
    kinds, transfers, works = steps.kinds, steps.transfers, steps.works
    slots = deque([zero] * prefetch_depth)  # when each becomes free
    early: deque[Number] = deque()  # when the transfers of steps before `ahead` began
    begun: list[Number] = []
    starts: list[Number] = []
    ends: list[Number] = []
    now = link = zero
    first = ahead = 0
    for limit in steps.limits:
        if not wrap and now > link:
            link = now
        for step in range(first, limit):
            kind = kinds[step]
            slotted = by_step or kind == QUEUED
            slot = slots.popleft() if slotted and step >= ahead else zero
            if kind == NEEDED:
                span = max(ahead, step + 1), len(kinds) if wrap else limit
                link, ahead = _let_by(steps, span, now, link, slots, early, by_step=by_step)
                begin = now if now > link else link
                begun.append(begin)
                now = link = begin + transfers[step]
            elif kind != HERE:
                if step < ahead:
                    begin = early.popleft()
                    arrival = begin + transfers[step]
                else:
                    begin = slot if slot > link else link
                    arrival = link = begin + transfers[step]
                begun.append(begin)
                if arrival > now:
                    now = arrival
            starts.append(now)
            now = now + works[step]
            ends.append(now)
            if slotted:
                slots.append(now)
        first = limit
    return begun, starts, ends


def _let_by(
    steps: Steps,
    span: tuple[int, int],
    now: Number,
    link: Number,
    slots: deque[Number],
    early: deque[Number],
    *,
    by_step: bool,
) -> tuple[Number, int]:
    """Begin the transfers of the steps in `span` that can before `now`, and add when to `early`.

    Return when the link is free again, and the first step whose transfer has not begun.
    """
    step, stop = span
    while step < stop:
        kind = steps.kinds[step]
        slotted = by_step or kind == QUEUED
        if slotted and not slots:
            break
        if kind in (QUEUED, RIDING):
            begin = max(link, slots[0]) if slotted else link
            if begin >= now:
                break
            early.append(begin)
            link = begin + steps.transfers[step]
        if slotted:
            slots.popleft()
        step += 1
    return link, step
