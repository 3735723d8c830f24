"""A Plan: where every byte lives and, per phase, the ordered steps that both executors carry out.

Pure data. `sim/` runs it in virtual time and `run/` in real time.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from tierline.cost.costing import Costing
from tierline.cost.footprint import Footprint
from tierline.cost.weights import ModelWeights, weigh
from tierline.machines.machine import Machine, RateKind
from tierline.models.description import Model
from tierline.models.workload import Workload
from tierline.place.placement import Placement, Unit

if TYPE_CHECKING:
    from tierline.plan.devices import Parallel

Strategy = Literal["resident", "streamed", "impossible"]


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes of `name` (a unit of weights, `kv` or `activations`) that cross `link` in a step."""

    name: str
    link: str
    traffic_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's turn in a pass. `compute_s` is None where the machine's rate is not known."""

    layer: str
    reads: tuple[Read, ...]
    flop: int
    compute_s: float | None


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What a phase moves over one link, over all its passes. The fast tier's own port counts as a link.

    `time_s` is None where no rate is known.
    """

    name: str
    traffic_bytes: int
    time_s: float | None
    rate_kind: RateKind


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase: the steps of one pass (the last, where passes differ), and totals over its `passes`.

    `weight_read_bytes` includes `static_weight_read_bytes`, which are read once and not in every pass.
    `time_s` is the roofline's; None where a link's rate is unknown. `compute_s` None means that it is left
    out of `time_s`, which is then a lower bound. `tokens` counts rows per sequence in a pass, the most where
    passes differ.
    """

    name: str
    passes: int
    tokens: int
    context: int
    steps: tuple[Step, ...]
    weight_read_bytes: int
    static_weight_read_bytes: int
    kv_read_bytes: int
    kv_write_bytes: int
    activation_traffic_bytes: int
    flop: int
    compute_s: float | None
    time_s: float | None
    bound: str | None
    rate_kind: RateKind | None
    tokens_per_s: float | None
    links: tuple[LinkUse, ...]

    @property
    def weight_read_bytes_per_pass(self) -> int:
        """Weight bytes that every pass reads."""
        return (self.weight_read_bytes - self.static_weight_read_bytes) // self.passes


@dataclass(frozen=True, slots=True)
class Residency:
    """Where the weights live.

    `placement` covers the units that the main phase reads whole, in its order; `spare` are the others (other
    components, tables read by the row), of which `spare_pinned` are in the fast tier too. Units that are not
    pinned are read when used: from the tier `home` over the links of `route`, of which `link` is the slowest.
    """

    strategy: Strategy
    placement: Placement
    spare_pinned: tuple[Unit, ...] = ()
    spare_streamed: tuple[Unit, ...] = ()
    route: tuple[str, ...] = ()
    link: str | None = None
    home: str | None = None

    @property
    def pinned_bytes(self) -> int:
        """Weight bytes that stay in the fast tier."""
        return self.placement.pinned_bytes + sum(u.footprint_bytes for u in self.spare_pinned)

    @property
    def streamed_bytes(self) -> int:
        """Weight bytes whose home is another tier."""
        return self.placement.streamed_bytes + sum(u.footprint_bytes for u in self.spare_streamed)

    @property
    def held_bytes(self) -> int:
        """Weight bytes in the fast tier at once: pinned ones and staging slots."""
        return self.pinned_bytes + self.placement.staging_bytes


@dataclass(frozen=True, slots=True)
class TierUse:
    """What of a tier is used. `allowed_bytes` is what may be: the capacity, or less where less is free."""

    name: str
    capacity_bytes: int
    allowed_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Plan:
    """A model on a machine under a workload and a precision.

    `resident_bytes` is the cap on weight bytes held at once that was asked for, None without one.
    `fits` says that all of it is resident in the fast tier. `short_bytes` is what is missing for that.
    Over several devices, `parallel` has each device's own plan: footprint, traffic and FLOP are then sums
    over all of them, times those of the whole, and the residency that of the device with the least room.
    """

    model: Model
    machine: Machine
    workload: Workload
    costing: Costing
    resident_bytes: int | None
    prefetch_depth: int
    fits: bool
    short_bytes: int
    footprint: Footprint
    residency: Residency
    tiers: tuple[TierUse, ...]
    phases: tuple[PhasePlan, ...]
    notes: tuple[str, ...]
    parallel: "Parallel | None" = None
    weighed: ModelWeights | None = field(default=None, repr=False, compare=False)

    @cached_property
    def weights(self) -> ModelWeights:
        """The model's weights under the precision; those that the plan was built with, where it has them."""
        return self.weighed or weigh(self.model, self.costing.precision)

    @property
    def strategy(self) -> Strategy:
        """Resident, streamed over a link, or impossible."""
        return self.residency.strategy

    def phase(self, name: str) -> PhasePlan | None:
        """Return the phase called `name`, or None if the workload has none."""
        return next((p for p in self.phases if p.name == name), None)

    @cached_property
    def main_phase(self) -> PhasePlan | None:
        """The phase with the most passes (decode, denoise), the last of equals; None without phases."""
        return max(reversed(self.phases), key=lambda p: p.passes, default=None)

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds of everything that comes before decode, or until a model that denoises gives its actions.

        None where neither is asked for, or a time is unknown. A phase whose compute time is unknown has no
        known time here, because a prompt is usually bound by it.
        """
        if self.phase("decode") is None and self.phase("denoise") is None:
            return None
        return _total([p for p in self.phases if p.name != "decode"])

    @property
    def actions_per_s(self) -> float | None:
        """Actions per second of a model that denoises a chunk of them, vision and prompt included."""
        denoise = self.phase("denoise")
        total = _total(self.phases)
        if denoise is None or not total:
            return None
        return self.workload.batch * denoise.tokens / total


def _total(phases: list[PhasePlan] | tuple[PhasePlan, ...]) -> float | None:
    total = 0.0
    for phase in phases:
        if phase.time_s is None or phase.compute_s is None:
            return None
        total += phase.time_s
    return total
