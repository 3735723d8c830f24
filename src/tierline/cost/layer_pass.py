"""What one layer moves and computes in one pass of a phase: the sums of its operations."""

from collections.abc import Iterable
from dataclasses import dataclass

from tierline.cost.amount import Amount, Values, total
from tierline.cost.costing import Costing
from tierline.cost.operations import OperationCost, operation_costs
from tierline.cost.weights import BlockWeights
from tierline.models.description import Phase


@dataclass(frozen=True, slots=True)
class OwnerRead:
    """Weight bytes that a pass reads of one layer's tensors; `owner` None means the layer that reads them.

    `by_row` says that rows are looked up.
    """

    owner: str | None
    by_row: bool
    traffic_bytes: Amount


@dataclass(frozen=True, slots=True)
class LayerPass:
    """Bytes and FLOP of one layer in one pass; `static_` ones occur once per phase instead."""

    reads: tuple[OwnerRead, ...]
    static_reads: tuple[OwnerRead, ...]
    weight_read_bytes: Amount
    static_weight_read_bytes: Amount
    kv_read_bytes: Amount
    kv_write_bytes: Amount
    activation_bytes: Amount
    static_activation_bytes: Amount
    flop: Amount
    static_flop: Amount


def layer_pass(weights: BlockWeights, phase: Phase, values: Values, costing: Costing) -> LayerPass:
    """Return what a layer of this kind costs in one pass of `phase` at `values` (see `PassGroup.values`)."""
    costs = operation_costs(weights, phase, values, costing)
    each = [cost for cost in costs if not cost.once]
    once = [cost for cost in costs if cost.once]
    reads, static_reads = _by_owner(each), _by_owner(once)
    return LayerPass(
        reads=reads,
        static_reads=static_reads,
        weight_read_bytes=total(read.traffic_bytes for read in reads),
        static_weight_read_bytes=total(read.traffic_bytes for read in static_reads),
        kv_read_bytes=total(cost.kv_read_bytes for cost in each),
        kv_write_bytes=total(cost.kv_write_bytes for cost in each),
        activation_bytes=total(cost.activation_bytes for cost in each),
        static_activation_bytes=total(cost.activation_bytes for cost in once),
        flop=total(cost.flop for cost in each),
        static_flop=total(cost.flop for cost in once),
    )


def _by_owner(costs: Iterable[OperationCost]) -> tuple[OwnerRead, ...]:
    totals: dict[tuple[str | None, bool], Amount] = {}
    for cost in costs:
        for read, count in cost.reads:
            key = (read.owner, read.by_row)
            totals[key] = totals.get(key, 0) + count
    return tuple(OwnerRead(owner, by_row, count) for (owner, by_row), count in totals.items())
