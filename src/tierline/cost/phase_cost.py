"""What a phase moves and computes in all its passes: kinds of layers costed once, times their number."""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.cost.amount import Amount
from tierline.cost.costing import Costing
from tierline.cost.layer_pass import LayerPass, layer_pass
from tierline.cost.passes import PassGroup, pass_groups
from tierline.cost.weights import BlockWeights, ModelWeights
from tierline.models.description import Phase


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """Totals over all passes; `weight_read_bytes` includes the static ones, which are read once.

    `kinds` holds, for each group of passes, the last pass of every kind of layer by `id(kind)`.
    """

    groups: tuple[PassGroup, ...]
    kinds: tuple[Mapping[int, LayerPass], ...]
    weight_read_bytes: Amount
    static_weight_read_bytes: Amount
    kv_read_bytes: Amount
    kv_write_bytes: Amount
    activation_bytes: Amount
    flop: Amount

    @property
    def passes(self) -> Amount:
        """Passes of all groups."""
        return sum(group.passes for group in self.groups)

    @property
    def traffic_bytes(self) -> Amount:
        """Everything that crosses the memory that holds it."""
        cached = self.kv_read_bytes + self.kv_write_bytes
        return self.weight_read_bytes + cached + self.activation_bytes


def phase_cost(
    phase: Phase, weights: ModelWeights, workload: Mapping[str, Amount], costing: Costing
) -> PhaseCost:
    """Return what `phase` costs; the workload's variables may be arrays, then so is every total."""
    kinds = weights.kinds(phase.components)
    groups = pass_groups(phase, workload, costing, _windows(kinds))
    totals = _Totals()
    last_passes: list[dict[int, LayerPass]] = []
    for i, group in enumerate(groups):
        lasts: dict[int, LayerPass] = {}
        for kind, count in kinds:
            last = layer_pass(kind, phase, group.values(workload), costing)
            first = last
            if group.grows:
                first = layer_pass(kind, phase, group.values(workload, first=True), costing)
            totals.add(group, first, last, count)
            if i == 0:
                totals.add_once(last, count)
            lasts[id(kind)] = last
        last_passes.append(lasts)
    return PhaseCost(
        groups,
        tuple(last_passes),
        totals.weight + totals.static,
        totals.static,
        totals.kv_read,
        totals.kv_write,
        totals.activation,
        totals.flop,
    )


def _windows(kinds: list[tuple[BlockWeights, int]]) -> set[int]:
    attends = [o.attention for kind, _ in kinds for o in kind.block.operations if o.attention]
    return {how.window for how in attends if how.window is not None}


class _Totals:
    """Adds up kinds of layers over groups of passes."""

    def __init__(self) -> None:
        self.weight: Amount = 0
        self.static: Amount = 0
        self.kv_read: Amount = 0
        self.kv_write: Amount = 0
        self.activation: Amount = 0
        self.flop: Amount = 0

    def add(self, group: PassGroup, first: LayerPass, last: LayerPass, count: int) -> None:
        """Add `count` layers in every pass of a group."""
        self.weight = self.weight + count * group.passes * last.weight_read_bytes
        self.kv_read = self.kv_read + count * group.total(first.kv_read_bytes, last.kv_read_bytes)
        self.kv_write = self.kv_write + count * group.total(first.kv_write_bytes, last.kv_write_bytes)
        self.activation = self.activation + count * group.total(first.activation_bytes, last.activation_bytes)
        self.flop = self.flop + count * group.total(first.flop, last.flop)

    def add_once(self, last: LayerPass, count: int) -> None:
        """Add what `count` layers do once per phase."""
        self.static = self.static + count * last.static_weight_read_bytes
        self.activation = self.activation + count * last.static_activation_bytes
        self.flop = self.flop + count * last.static_flop
