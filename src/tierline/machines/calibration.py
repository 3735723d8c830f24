"""What `tierline calibrate` measured on a machine, beyond the rates that every machine has.

Each figure is known alone and, where it was measured so, overlapped: compute and memory while the disk was
being read, the disk while products were computed. What a stream really gets is the overlapped one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tierline.sourced import Sourced
from tierline.units import MIB

if TYPE_CHECKING:
    from tierline.machines.machine import Machine

DEFAULT_READ_SETTINGS = (4 * MIB, 2)
# Slower settings than the best within this fraction are as good: less staging is worth more than noise.
_AS_GOOD = 0.03


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure in base units, `alone` and while the other resource was kept busy."""

    alone: Sourced
    overlapped: Sourced | None = None

    @property
    def streaming(self) -> Sourced:
        """The number that counts while weights stream: overlapped where it is known."""
        return self.overlapped or self.alone


@dataclass(frozen=True, slots=True)
class ReadRate:
    """Bytes/s of the disk in sequence, by requests of `request_bytes` from each of `readers` threads."""

    request_bytes: int
    readers: int
    rate: Measured


@dataclass(frozen=True, slots=True)
class ProductRate:
    """FLOP/s of `rows` activations in format `compute` times a matrix stored in `format`."""

    format: str
    compute: str
    rows: int
    rate: Measured


@dataclass(frozen=True, slots=True)
class ExpansionRate:
    """Stored bytes/s at which weights in `format` are expanded to `compute`."""

    format: str
    compute: str
    rate: Measured


@dataclass(frozen=True, slots=True)
class Calibration:
    """All figures: memory in bytes/s (a copied byte counts once), `call` in seconds per module call."""

    memory_read: Measured | None = None
    memory_copy: Measured | None = None
    call: Measured | None = None
    reads: tuple[ReadRate, ...] = ()
    products: tuple[ProductRate, ...] = ()
    expansions: tuple[ExpansionRate, ...] = ()

    def figures(self) -> Iterator[tuple[str, str, Measured]]:
        """Yield every figure as (what it is, its unit: `B/s`, `FLOP/s` or `s`, the figure)."""
        for name, unit, single in (
            ("memory read", "B/s", self.memory_read),
            ("memory copy", "B/s", self.memory_copy),
            ("module call", "s", self.call),
        ):
            if single is not None:
                yield name, unit, single
        for read in self.reads:
            yield f"disk read, {read.request_bytes // 1024} KiB x {read.readers}", "B/s", read.rate
        for p in self.products:
            yield f"product {p.format} in {p.compute}, {p.rows} row{'s' * (p.rows > 1)}", "FLOP/s", p.rate
        for e in self.expansions:
            yield f"expand {e.format} to {e.compute}", "B/s", e.rate


def read_settings(machine: "Machine") -> tuple[int, int]:
    """Return (bytes per request, reader threads) with which to stream from `machine`'s disk.

    Of the settings that were measured, the one that holds the least memory (request x readers) and is within
    3 % of the fastest, or within its spread if that is wider, by the rate beside running compute; 4 MiB and 2
    where the machine is not calibrated.
    """
    reads = machine.calibration.reads if machine.calibration else ()
    if not reads:
        return DEFAULT_READ_SETTINGS
    return choose_read(reads)


def choose_read(reads: tuple[ReadRate, ...]) -> tuple[int, int]:
    """Return what `read_settings` does, of `reads` (at least one)."""
    fastest = max((read.rate.streaming for read in reads), key=lambda number: number.value)
    least = fastest.value * (1 - max(_AS_GOOD, fastest.spread or 0))
    good = [read for read in reads if read.rate.streaming.value >= least]
    best = min(good, key=lambda read: (read.request_bytes * read.readers, read.readers))
    return best.request_bytes, best.readers
