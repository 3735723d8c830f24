"""What must be held at once: weights, KV cache and activations."""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.cost import activations, kv
from tierline.cost.amount import Amount
from tierline.cost.layer_pass import Costing, element_bytes, phase_values
from tierline.cost.weights import BlockWeights, ModelWeights
from tierline.formats.format import Format
from tierline.models.description import Model


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
    caches: dict[str, Amount] = {}
    for phase in model.phases:
        values = phase_values(phase, workload)
        for entry in weights.of(phase.components):
            attends = [o.attention for o in entry.weights.block.operations if o.attention]
            if any(a.cache != "none" for a in attends):
                caches[entry.layer.name] = sum(
                    kv.footprint_bytes(a, costing.precision.kv, values, block_tokens=costing.kv_block_tokens)
                    for a in attends
                )
    return sum(caches.values())


def working_set_bytes(
    model: Model, weights: ModelWeights, workload: Mapping[str, int], costing: Costing
) -> int:
    """Return the most activation bytes live at once over all phases that run: an upper estimate.

    See `activations.live_elements`. Logits count in their own format. 0 under the policy `none`.
    """
    if costing.activation_policy == "none":
        return 0
    scores = costing.activation_policy == "materialised"
    most = 0
    for phase in model.phases:
        if not phase.passes.evaluate(workload):
            continue
        values = phase_values(phase, workload)
        kinds = {id(e.weights): e.weights for e in weights.of(phase.components)}
        for kind in kinds.values():
            live = activations.live_elements(kind.block, values, scores=scores)
            number_format = _format(kind, costing)
            most = max([most, *(element_bytes(elements, number_format) for elements in live)])
    return most


def _format(kind: BlockWeights, costing: Costing) -> Format:
    is_head = any(t.kind == "head" for t in kind.block.tensors)
    return costing.precision.logits if is_head else costing.precision.activations
