"""Many workloads at once: every formula evaluated on arrays, for sweeps and searches.

The weights are one precision's; what varies are the workload's variables, as numpy arrays of one shape (or
scalars, which stand for all points).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.cost.amount import Amount, Values
from tierline.cost.costing import Costing
from tierline.cost.footprint import kv_cache_bytes, working_set_bytes
from tierline.cost.phase_cost import PhaseCost, phase_cost
from tierline.cost.weights import ModelWeights
from tierline.models.description import Model


@dataclass(frozen=True, slots=True)
class Points:
    """Footprints in bytes, and what each phase costs, an element per workload."""

    weights_bytes: int
    kv_cache_bytes: Amount
    activation_bytes: Amount
    phases: Mapping[str, PhaseCost]

    @property
    def total_bytes(self) -> Amount:
        """Weights, cache and activations: program and runtime are not in it."""
        return self.weights_bytes + self.kv_cache_bytes + self.activation_bytes


def cost_points(model: Model, weights: ModelWeights, workloads: Values, costing: Costing) -> Points:
    """Return what `workloads` cost: the values of every variable but `tokens`, scalars or arrays.

    `context` has to be `prompt_tokens + new`.
    """
    return Points(
        weights.stored_bytes,
        kv_cache_bytes(model, weights, workloads, costing),
        working_set_bytes(model, weights, workloads, costing),
        {phase.name: phase_cost(phase, weights, workloads, costing) for phase in model.phases},
    )


def resident_seconds(
    cost: PhaseCost, bytes_per_s: float, flop_per_s: float | None, *, shared_memory: bool = False
) -> Amount:
    """Return how long a phase takes with all of it in one memory: `max(bytes / rate, FLOP / rate)`.

    The sum where `shared_memory`, and the bytes alone where the compute rate is not known.
    """
    link_s = cost.traffic_bytes / bytes_per_s
    if flop_per_s is None:
        return link_s
    compute_s = cost.flop / flop_per_s
    if shared_memory:
        return link_s + compute_s
    return (link_s + compute_s + abs(link_s - compute_s)) / 2
