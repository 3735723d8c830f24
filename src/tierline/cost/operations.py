"""What one operation moves and computes in one pass: whole numbers, of which all totals are sums."""

from dataclasses import dataclass

from tierline.cost import activations, flops, kv
from tierline.cost.amount import Amount, Values, element_bytes
from tierline.cost.costing import Costing
from tierline.cost.weights import BlockWeights, WeightRead
from tierline.models.description import Operation, Phase


@dataclass(frozen=True, slots=True)
class OperationCost:
    """Bytes and FLOP of one operation in one pass, or with `once` in the whole phase (hoisted).

    `reads` holds (weight read, bytes).
    """

    operation: Operation
    reads: tuple[tuple[WeightRead, Amount], ...]
    kv_read_bytes: Amount
    kv_write_bytes: Amount
    activation_bytes: Amount
    flop: Amount
    once: bool

    @property
    def weight_read_bytes(self) -> Amount:
        """Bytes of all weights that it reads."""
        return sum(count for _, count in self.reads)


def operation_costs(
    weights: BlockWeights, phase: Phase, values: Values, costing: Costing
) -> tuple[OperationCost, ...]:
    """Return what each operation of a layer of this kind costs in a pass, in execution order.

    `values` are the workload's variables with `tokens` and `context` of the pass (see `PassGroup.values`).
    """
    block, kv_format = weights.block, costing.precision.kv
    bare = costing.include == "layer-matrices"
    counted = not bare or weights.attends
    one_row = phase.tokens.terms == ((1, ()),)
    moved = activations.traffic_elements(
        block, values, costing.activation_policy if counted else "none", one_row=one_row
    )
    costs = []
    for operation, reads, elements in zip(block.operations, weights.by_operation, moved, strict=True):
        how, kv_read, kv_write = operation.attention, 0, 0
        if how is not None and not bare:
            kv_read = kv.read_bytes(how, kv_format, values, own_at_hand=not one_row)
            kv_write = kv.write_bytes(how, kv_format, values)
        taken = [r for r in reads if not bare or (counted and r.is_matrix)]
        costs.append(
            OperationCost(
                operation,
                tuple((read, read.traffic_bytes(values, costing.expert_shares)) for read in taken),
                kv_read,
                kv_write,
                element_bytes(elements, costing.precision.activations),
                flops.operation_flop(operation, weights.tensors, values),
                operation.static and costing.hoist_static,
            )
        )
    return tuple(costs)
