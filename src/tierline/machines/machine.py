"""Where a model is computed, as data: tiers of memory, links between them, compute units."""

from dataclasses import dataclass
from typing import Literal, get_args

from tierline.errors import InputError, UnknownRateError
from tierline.machines.calibration import Calibration
from tierline.sourced import Sourced

RateKind = Literal["sustained", "peak"]
Topology = Literal["switch", "bus"]
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate in bytes/s (or FLOP/s) as the datasheet gives it and as it was measured or sourced in practice.

    Two numbers, never one times a factor. At least one is given.
    """

    peak: Sourced | None
    sustained: Sourced | None

    @property
    def value(self) -> float:
        """The sustained value, or the peak where no sustained one is known."""
        best = self.sustained or self.peak
        if best is None:
            raise UnknownRateError("neither a peak nor a sustained rate is known")
        return best.value

    @property
    def kind(self) -> RateKind:
        """Which of the two `value` is."""
        return "sustained" if self.sustained is not None else "peak"


@dataclass(frozen=True, slots=True)
class Tier:
    """One memory. `rate` is what its port gives to the compute beside it; None if nothing computes from it.

    `free_bytes` is what of the capacity can be used without pushing something else out, `energy_j_per_byte`
    what it costs to move a byte over the port, if known.
    """

    name: str
    capacity_bytes: Sourced
    rate: Rate | None = None
    latency_s: Sourced | None = None
    free_bytes: Sourced | None = None
    energy_j_per_byte: Sourced | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A directed path from one tier to another tier or to `compute`."""

    name: str
    source: str
    target: str
    rate: Rate
    latency_s: Sourced | None = None
    energy_j_per_byte: Sourced | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """A unit that computes: operations per second by number format, dense (one multiply-add is two).

    A format that is not a key has an unknown rate. `count` and `clock_hz` are how many units there are and
    what clocks them, where known; the rates already include them.
    """

    name: str
    flop_per_s: dict[str, Rate]
    count: Sourced | None = None
    clock_hz: Sourced | None = None
    energy_j_per_flop: Sourced | None = None


@dataclass(frozen=True, slots=True)
class Interconnect:
    """What joins devices. Through a `switch` every device sends and receives at `rate`, whatever the others
    do; a `bus` carries `rate` for all of them together. One of it joins `group` neighbours, None: all.
    """

    name: str
    topology: Topology
    rate: Rate
    latency_s: Sourced | None = None
    energy_j_per_byte: Sourced | None = None
    group: int | None = None

    def joins(self, indices: tuple[int, ...]) -> bool:
        """Return whether the devices at `indices` can all reach each other over it."""
        return self.group is None or len({index // self.group for index in indices}) == 1


@dataclass(frozen=True, slots=True)
class Device:
    """One of the devices of a machine: what it is, as a machine of its own in the common host."""

    name: str
    machine: "Machine"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine: the first tier is the fast one that compute reads; `links` bring data to it from the others.

    `runtime_bytes` is memory that the runtime takes for itself in the fast tier (a CUDA context), None where
    unknown and irrelevant. `price` is in the money that all machines of a comparison are priced in.
    `shared_memory` is True where links and compute share one memory's bandwidth. `calibration` is what
    `tierline calibrate` measured beyond these numbers. Where there are several
    `devices`, joined by `interconnects`, tiers, links and compute are those of the first and its host.
    """

    name: str
    title: str
    tiers: tuple[Tier, ...]
    links: tuple[Link, ...]
    compute: tuple[Compute, ...] = ()
    runtime_bytes: Sourced | None = None
    price: Sourced | None = None
    shared_memory: bool = False
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    devices: tuple[Device, ...] = ()
    interconnects: tuple[Interconnect, ...] = ()

    @property
    def fast(self) -> Tier:
        """The tier that compute reads from."""
        return self.tiers[0]

    def tier(self, name: str) -> Tier:
        """Return the tier called `name`; raise InputError with the known names otherwise."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise InputError(f"{self.name} has no tier {name!r}: it has {', '.join(t.name for t in self.tiers)}")

    def link(self, name: str) -> Link:
        """Return the link called `name`; raise InputError with the known names otherwise."""
        for link in self.links:
            if link.name == name:
                return link
        known = ", ".join(link.name for link in self.links) or "none"
        raise InputError(f"{self.name} has no link {name!r}: it has {known}")
