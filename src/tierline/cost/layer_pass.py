"""What one layer moves and computes in one pass of a phase."""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.cost import activations, flops, kv
from tierline.cost.activations import ActivationPolicy
from tierline.cost.amount import Amount, Values
from tierline.cost.weights import BlockWeights, WeightRead
from tierline.formats.format import Format
from tierline.formats.precision import Precision
from tierline.models.description import Phase


@dataclass(frozen=True, slots=True)
class Costing:
    """The choices under which passes are costed.

    `hoist_static` computes an operation marked static once per phase instead of once per pass.
    `kv_block_tokens` is the page of a paged KV cache, 1 for none.
    """

    precision: Precision
    activation_policy: ActivationPolicy = "fused"
    hoist_static: bool = True
    kv_block_tokens: int = 1


@dataclass(frozen=True, slots=True)
class LayerPass:
    """Bytes and FLOP of one layer in one pass; `static_` ones occur once per phase instead.

    `reads` and `static_reads` hold (weight read, bytes).
    """

    reads: tuple[tuple[WeightRead, Amount], ...]
    static_reads: tuple[tuple[WeightRead, Amount], ...]
    kv_read_bytes: Amount
    kv_write_bytes: Amount
    activation_bytes: Amount
    flop: Amount
    static_flop: Amount

    @property
    def weight_read_bytes(self) -> Amount:
        """Weight bytes read in every pass."""
        return sum(count for _, count in self.reads)

    @property
    def static_weight_read_bytes(self) -> Amount:
        """Weight bytes read once per phase."""
        return sum(count for _, count in self.static_reads)


def phase_values(phase: Phase, workload: Mapping[str, Amount]) -> dict[str, Amount]:
    """Return the workload's variables with `tokens` and `context` as this phase means them."""
    bound = {"tokens": phase.tokens.evaluate(workload), "context": phase.context.evaluate(workload)}
    return {**workload, **bound}


def layer_pass(weights: BlockWeights, phase: Phase, values: Values, costing: Costing) -> LayerPass:
    """Return what a layer of this kind costs in one pass of `phase` at `values` (see `phase_values`)."""
    block, kv_format = weights.block, costing.precision.kv
    hoisted = {o.name for o in block.operations if o.static} if costing.hoist_static else set()
    reads = [(read, read.traffic_bytes(values)) for read in weights.reads]
    attends = [o.attention for o in block.operations if o.attention]
    fresh = phase.context == phase.tokens
    elements = activations.traffic_elements(
        block, values, costing.activation_policy, one_row=_is_one(phase.tokens.terms)
    )
    tensors = weights.tensors
    flop = [(o.name in hoisted, flops.operation_flop(o, tensors, values)) for o in block.operations]
    return LayerPass(
        reads=tuple(entry for entry in reads if entry[0].operation.name not in hoisted),
        static_reads=tuple(entry for entry in reads if entry[0].operation.name in hoisted),
        kv_read_bytes=sum(kv.read_bytes(a, kv_format, values, fresh=fresh) for a in attends),
        kv_write_bytes=sum(kv.write_bytes(a, kv_format, values) for a in attends),
        activation_bytes=element_bytes(elements, costing.precision.activations),
        flop=sum(count for static, count in flop if not static),
        static_flop=sum(count for static, count in flop if static),
    )


def element_bytes(elements: Amount, number_format: Format) -> Amount:
    """Return the bytes of a run of elements, rounded up: `elements * bits / 8`."""
    bits = number_format.bits_per_element
    return -(-elements * bits.numerator // (8 * bits.denominator))


def _is_one(terms: tuple[tuple[int, tuple[str, ...]], ...]) -> bool:
    return terms == ((1, ()),)
