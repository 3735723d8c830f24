"""Virtual time: events by (time, priority, sequence), and what works in it: links and staging slots.

Numbers are only added, subtracted, multiplied, divided and compared: exact on `fractions.Fraction`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal

# An int, float or Fraction. No common type names them.
Number = Any
Action = Callable[[], None]
Moved = Callable[[Number, Number], None]
Discipline = Literal["fifo", "fair"]


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link: bytes/s, seconds before the first byte, and the least bytes that a transfer costs.

    `fifo` serves one transfer after another, `fair` all at once at equal shares of the rate. `in_flight` is
    how many requests may be outstanding: the latency of one passes while another is served.
    """

    name: str
    rate: Number
    latency: Number = 0
    minimum_bytes: int = 0
    discipline: Discipline = "fifo"
    in_flight: int = 1


class Kernel:
    """The clock and the events to come."""

    __slots__ = ("_events", "_sequence", "now")

    def __init__(self, zero: Number = 0.0) -> None:
        self.now = zero
        self._events: list[tuple[Number, int, int, Action]] = []
        self._sequence = 0

    def at(self, time: Number, action: Action, priority: int = 0) -> None:
        """Do `action` at `time`; at equal times the lower priority first, then what was asked first."""
        self._sequence += 1
        heappush(self._events, (time, priority, self._sequence, action))

    def run(self) -> None:
        """Do everything in order until nothing is left to do."""
        events = self._events
        while events:
            self.now, _, _, action = heappop(events)
            action()


class Slots:
    """A number of staging slots, or of bytes of a staging ring."""

    __slots__ = ("free",)

    def __init__(self, count: int) -> None:
        self.free = count

    def take(self, count: int = 1) -> bool:
        """Take `count` of them if that many are free; return whether they were."""
        if self.free < count:
            return False
        self.free -= count
        return True

    def give(self, count: int = 1) -> None:
        """Give `count` of them back."""
        self.free += count


class Link:
    """A server that moves bytes in the order in which it was asked."""

    def __init__(self, kernel: Kernel, spec: LinkSpec) -> None:
        self.spec = spec
        self._kernel = kernel
        self._outstanding = 0
        self._waiting: deque[tuple[int, int, Moved]] = deque()
        self._free = kernel.now  # fifo: when the last transfer that was asked for ends
        self._served = kernel.now * 0  # fair: bytes that each transfer present since the start would have
        self._since = kernel.now
        self._present: list[tuple[Number, int, Number, Moved]] = []
        self._turn = 0

    def request(self, traffic_bytes: int, moved: Moved, requests: int = 1, *, urgent: bool = False) -> None:
        """Move bytes and call `moved(start, end)`, times of the transfer itself, when they have arrived.

        `requests` is in how many pieces they are asked for, one after another: each pays the latency. What is
        `urgent` goes before all that waits.
        """
        (self._waiting.appendleft if urgent else self._waiting.append)((traffic_bytes, requests, moved))
        if self._outstanding < self.spec.in_flight:
            self._kernel.at(self._kernel.now, self._admit, 1)  # when all that is asked for now is known

    def _admit(self) -> None:
        spec, kernel = self.spec, self._kernel
        while self._waiting and self._outstanding < spec.in_flight:
            traffic_bytes, requests, moved = self._waiting.popleft()
            self._outstanding += 1
            arrival = kernel.now + requests * spec.latency
            amount = max(traffic_bytes, spec.minimum_bytes)
            if spec.discipline == "fair":
                kernel.at(arrival, lambda amount=amount, moved=moved: self._join(amount, moved))  # type: ignore[misc]
                continue
            start = max(arrival, self._free)
            end = self._free = start + amount / spec.rate
            kernel.at(end, lambda s=start, e=end, moved=moved: self._finish(s, e, moved))  # type: ignore[misc]

    def _finish(self, start: Number, end: Number, moved: Moved) -> None:
        self._outstanding -= 1
        if self._waiting:
            self._kernel.at(self._kernel.now, self._admit, 1)
        moved(start, end)

    def _join(self, amount: int, moved: Moved) -> None:
        self._share()
        self._turn += 1
        heappush(self._present, (self._served + amount, self._turn, self._kernel.now, moved))
        self._expect()

    def _share(self) -> None:
        """Give every transfer present its share of the time that has passed."""
        if self._present:
            passed = self._kernel.now - self._since
            self._served = self._served + passed * self.spec.rate / len(self._present)
        self._since = self._kernel.now

    def _expect(self) -> None:
        """Plan the end of the transfer that has the least left, as long as nobody joins or leaves before."""
        if self._present:
            left = max(self._present[0][0] - self._served, 0)
            end = self._kernel.now + left * len(self._present) / self.spec.rate
            self._kernel.at(end, lambda turn=self._turn: self._leave(turn))  # type: ignore[misc]

    def _leave(self, turn: int) -> None:
        if turn != self._turn:  # somebody joined or left since this was planned
            return
        self._share()
        self._turn += 1
        self._served, _, start, moved = heappop(self._present)
        self._expect()
        self._finish(start, self._kernel.now, moved)
