"""What must be held at once: weights, KV cache and activations."""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.cost import activations, kv
from tierline.cost.amount import Amount, larger
from tierline.cost.costing import Costing
from tierline.cost.operations import element_bytes
from tierline.cost.passes import pass_groups
from tierline.cost.weights import BlockWeights, ModelWeights
from tierline.formats.format import Format
from tierline.models.description import Model, Phase


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a model occupies while it runs. `tied_weights_bytes` holds every tied tensor once.

    `by_component_bytes` splits `weights_bytes`, the tensors as the checkpoint stores them.
    """

    weights_bytes: int
    tied_weights_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    program_bytes: int
    runtime_bytes: int
    by_component_bytes: Mapping[str, int]

    @property
    def others_bytes(self) -> int:
        """Everything but the weights."""
        return self.kv_cache_bytes + self.activation_bytes + self.program_bytes + self.runtime_bytes

    @property
    def total_bytes(self) -> int:
        """The sum of all parts, weights as stored."""
        return self.weights_bytes + self.others_bytes


def kv_cache_bytes(
    model: Model, weights: ModelWeights, workload: Mapping[str, Amount], costing: Costing
) -> Amount:
    """Return the bytes of the whole cache when the longest phase ends: the sum over the layers that cache.

    A layer that several phases run through has the cache of the one with the longest context (the last).
    """
    last: dict[str, Phase] = {name: phase for phase in model.phases for name in phase.components}
    total: Amount = 0
    for component, phase in last.items():
        values = phase_values(phase, workload)
        for kind, count in weights.kinds([component]):
            total = total + count * sum(
                kv.footprint_bytes(how, costing.precision.kv, values, block_tokens=costing.kv_block_tokens)
                for how in (o.attention for o in kind.block.operations)
                if how is not None and how.cache != "none"
            )
    return total


def phase_values(phase: Phase, workload: Mapping[str, Amount]) -> dict[str, Amount]:
    """Return the workload's variables with `tokens` and `context` as this phase means them."""
    bound = {"tokens": phase.tokens.evaluate(workload), "context": phase.context.evaluate(workload)}
    return {**workload, **bound}


def working_set_bytes(
    model: Model, weights: ModelWeights, workload: Mapping[str, Amount], costing: Costing
) -> Amount:
    """Return the most activation bytes live at once over all phases that run: an upper estimate.

    See `activations.live_elements`. Logits count in their own format. 0 under the policy `none`.
    """
    most: Amount = 0
    if costing.activation_policy == "none":
        return most
    scores = costing.activation_policy == "materialised"
    for phase in model.phases:
        passes = phase.passes.evaluate(workload)
        if isinstance(passes, int) and not passes:
            continue
        for group in pass_groups(phase, workload, costing):
            values = group.values(workload)
            for kind, _ in weights.kinds(phase.components):
                number_format = _format(kind, costing)
                for elements in activations.live_elements(kind.block, values, scores=scores):
                    most = larger(most, element_bytes(elements, number_format))
    return most


def _format(kind: BlockWeights, costing: Costing) -> Format:
    is_head = any(t.kind == "head" for t in kind.block.tensors)
    return costing.precision.logits if is_head else costing.precision.activations
