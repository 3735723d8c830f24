"""Read a file at the rate of another machine's link: what a run would be there, before one buys it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import InputError, UnknownRateError
from tierline.machines.load import load_machine
from tierline.machines.machine import Link, Machine, Rate
from tierline.run.direct_io import DirectFile, Extract

Wait = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Pace:
    """The link of a machine whose rate and latency reads obey."""

    machine: str
    link: str
    bytes_per_s: float
    latency_s: float

    @property
    def name(self) -> str:
        """Machine and link, as `--pace` takes them."""
        return f"{self.machine}:{self.link}"

    def sustained_bytes_per_s(self, request_bytes: float, in_flight: int) -> float:
        """Return the bytes/s of requests of `request_bytes`, `in_flight` of them outstanding all the time.

        The latency of one passes while others cross, so a request takes
        `max(bytes / rate, (latency + bytes / rate) / in_flight)`.
        """
        crossing_s = request_bytes / self.bytes_per_s
        return request_bytes / max(crossing_s, (self.latency_s + crossing_s) / in_flight)


def find_pace(text: str) -> Pace:
    """Return the link that `MACHINE` or `MACHINE:LINK` names: by default the slowest into its fast tier.

    Raises InputError for an unknown machine or link and a machine without links, UnknownRateError for a link
    whose rate no source gives.
    """
    name, colon, link_name = (text, "", "") if Path(text).is_file() else text.partition(":")
    machine = load_machine(name)
    link = machine.link(link_name) if colon else _slowest(machine)
    if not _known(link.rate):
        raise UnknownRateError(
            f"{machine.name}: no rate of {link.name} is known, so nothing can be paced by it"
        )
    latency_s = link.latency_s.value if link.latency_s else 0.0
    return Pace(machine.name, link.name, link.rate.value, latency_s)


def _slowest(machine: Machine) -> Link:
    for target in (machine.fast.name, "compute"):
        links = [link for link in machine.links if link.target == target and _known(link.rate)]
        if links:
            return min(links, key=lambda link: link.rate.value)
    raise InputError(f"--pace {machine.name}: no link of known rate leads to its {machine.fast.name}")


def _known(rate: Rate) -> bool:
    return rate.sustained is not None or rate.peak is not None


class PacedLink:
    """One link that all readers of all files share: requests cross it one after another.

    A request waits for the latency, then for those before it, then takes `bytes / rate`. An idle link saves
    nothing up: there is no burst.
    """

    def __init__(
        self, pace: Pace, *, now: Callable[[], float] = time.monotonic, wait: Wait | None = None
    ) -> None:
        """`now` and `wait` are the clock and how to let time pass (seconds), for tests that do not sleep."""
        self.pace = pace
        self._stopped = threading.Event()
        self._now, self._wait = now, wait or self._stopped.wait
        self._lock = threading.Lock()
        self._free_s = now()

    def ask(self, traffic_bytes: int) -> float:
        """Take a turn and return the moment at which `traffic_bytes` asked for now will have crossed."""
        with self._lock:
            started_s = max(self._now() + self.pace.latency_s, self._free_s)
            self._free_s = started_s + traffic_bytes / self.pace.bytes_per_s
            return self._free_s

    def until(self, moment_s: float) -> None:
        """Return at `moment_s` of the clock, or as soon as the link is stopped."""
        while (left_s := moment_s - self._now()) > 0 and not self._stopped.is_set():
            self._wait(left_s)

    def stop(self) -> None:
        """End every wait at once, those to come too."""
        self._stopped.set()


class PacedFile(DirectFile):
    """A file whose reads cross a paced link, after the disk's own time if that is longer."""

    def __init__(self, path: Path, link: PacedLink) -> None:
        super().__init__(path)
        self._link = link

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        """Read as `DirectFile.read` does; return when the bytes would have crossed the link."""
        crossed_s = self._link.ask(self.span_bytes(extract))
        data = super().read(extract, into)
        self._link.until(crossed_s)
        return data
