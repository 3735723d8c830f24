"""A plan over several devices: what each holds and does, what they exchange, how stages follow each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tierline.cost.collectives import Collective
from tierline.cost.split import Split
from tierline.plan.plan import LinkUse, Plan

Group = Literal["tp", "ep", "pp", "dp"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a plan is asked for beyond its costing (see `build.plan_with`), the same on every device."""

    resident_bytes: int | None = None
    program_bytes: int = 0
    prefetch_depth: int = 2
    unit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which part of each dimension a device has."""

    tp: int
    pp: int
    ep: int
    dp: int


@dataclass(frozen=True, slots=True)
class Use:
    """Exchanges of one kind that a device takes part in during a phase: `count` of `collective` over `link`.

    Of one micro-batch, all passes are counted; where passes differ, `collective` is the last one's.
    `operation` is the name of what they follow within its layer, `layers` those layers in order (once for
    each exchange). `sent_bytes` and `time_s` are totals; bytes are the mean of the devices of the group.
    """

    phase: str
    operation: str
    group: Group
    link: str
    collective: Collective
    layers: tuple[str, ...]
    count: int
    sent_bytes: int
    time_s: float


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device: its ranks, the plan of its shard, its exchanges, and all its links over all phases.

    The plan's phases are those of one micro-batch; its cache is that of all of them. `uses` are of one
    micro-batch too, `links` of all. `imbalance` is by phase how much more arithmetic the device with the most
    visited experts has than the mean; a phase that is not in it is even.
    """

    name: str
    ranks: Ranks
    plan: Plan
    uses: tuple[Use, ...]
    links: tuple[LinkUse, ...]
    imbalance: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StagedPhase:
    """A phase through the pipeline: the seconds of one pass of one micro-batch in every stage.

    `exchange_s` is the part of it that is spent exchanging. `bubble_fraction` is the part of the time in
    which devices wait for other stages, on average; None where a time is not known.
    """

    name: str
    stage_s: tuple[float | None, ...]
    exchange_s: tuple[float, ...]
    bubble_fraction: float | None


@dataclass(frozen=True, slots=True)
class Parallel:
    """How a model is split over devices. `layers` is how many repeating layers each stage has.

    `micro_batch` is the sequences of one micro-batch on one device.
    """

    split: Split
    layers: tuple[int, ...]
    micro_batch: int
    devices: tuple[DevicePlan, ...]
    phases: tuple[StagedPhase, ...]
