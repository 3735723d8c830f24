"""The terms of a derivation: every byte and FLOP of a plan as a product that says where it comes from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from tierline.cost import kv
from tierline.cost.operations import OperationCost, operation_costs
from tierline.cost.passes import pass_groups
from tierline.cost.weights import BlockWeights, LayerWeights, ModelWeights, WeightRead, weigh
from tierline.models.description import Attention, Phase, Tensor
from tierline.plan.plan import PhasePlan, Plan
from tierline.report.names import joined, short

Factor = int | Fraction


@dataclass(frozen=True, slots=True)
class Term:
    """A product: what of, in symbols, its factors, and their product.

    `kind` is `weights`, `kv`, `activations` or `flop`. `last` writes the last factor where it is not a plain
    number but was computed and rounded; empty otherwise.
    """

    kind: str
    what: str
    symbols: str
    factors: tuple[Factor, ...]
    total: int
    last: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one tensor or operation of one layer adds; see Term."""

    kind: str
    what: str
    symbols: str
    factors: tuple[Factor, ...]
    last: str = ""


@dataclass(frozen=True, slots=True)
class ComponentPass:
    """What one component does in one pass of a phase, and in `once` what it does once per phase."""

    name: str
    each: tuple[Term, ...]
    once: tuple[Term, ...]

    def total(self, kind: str, *, once: bool = False) -> int:
        """Return the sum of the terms of one kind in a pass, or of those that occur once."""
        return sum(term.total for term in (self.once if once else self.each) if term.kind == kind)

    def bytes_moved(self, passes: int) -> int:
        """Return the bytes of all passes, those of once included."""
        kinds = ("weights", "kv", "activations")
        return sum(passes * self.total(kind) + self.total(kind, once=True) for kind in kinds)


@dataclass(frozen=True, slots=True)
class PhaseDerivation:
    """A phase: its plan and what its components do in it."""

    plan: PhasePlan
    components: tuple[ComponentPass, ...]

    def total(self, kind: str) -> int:
        """Return the sum over components and passes of one kind."""
        passes = self.plan.passes
        return sum(passes * c.total(kind) + c.total(kind, once=True) for c in self.components)


@dataclass(frozen=True, slots=True)
class Derivation:
    """A plan in terms: what its components hold, what its cache holds, and what its phases do."""

    plan: Plan
    held: tuple[tuple[str, tuple[Term, ...]], ...]
    cache: tuple[Term, ...]
    phases: tuple[PhaseDerivation, ...]


def derive(plan: Plan) -> Derivation:
    """Return the terms of `plan`, the last pass of each phase standing for all of them."""
    weights = weigh(plan.model, plan.costing.precision)
    held = tuple((name, tuple(_held(layers))) for name, layers in weights.by_component.items())
    phases = []
    for phase in plan.model.phases:
        planned = plan.phase(phase.name)
        if planned is not None:
            phases.append(PhaseDerivation(planned, tuple(_components(plan, weights, phase))))
    return Derivation(plan, held, tuple(_cache(plan, weights)), tuple(phases))


def _held(layers: Sequence[LayerWeights]) -> Iterator[Term]:
    """Yield the tensors of a component, those of one shape in layers alike together."""
    kinds: dict[int, tuple[LayerWeights, int]] = {}
    for entry in layers:
        first, count = kinds.get(id(entry.weights), (entry, 0))
        kinds[id(entry.weights)] = (first, count + 1)
    pieces = []
    for entry, count in kinds.values():
        stored = [t for t in entry.weights.block.tensors if t.in_file]
        pieces.append((count, [_tensor_piece(entry, t, entry.weights.tensor_bytes[t.name]) for t in stored]))
    yield from _gathered(pieces)


def _tensor_piece(entry: LayerWeights, tensor: Tensor, count: int) -> _Piece:
    each = _per_element(count, tensor.elements)
    return _Piece("weights", _called(entry, tensor), _shape_symbols(tensor.shape), (*tensor.shape, each))


def _called(entry: LayerWeights, tensor: Tensor) -> str:
    """Return what a tensor is called: its module, or for what has one dimension its class."""
    if len(tensor.shape) < 2:
        return str(tensor.kind)
    module = tensor.name.removesuffix("weight").removesuffix(".")
    return module or short(entry.layer.name)


def _cache(plan: Plan, weights: ModelWeights) -> Iterator[Term]:
    """Yield what the layers that keep keys and values hold at the full context."""
    last: dict[str, Phase] = {name: phase for phase in plan.model.phases for name in phase.components}
    number_format, page = plan.costing.precision.kv, plan.costing.kv_block_tokens
    groups: dict[tuple[str, int, int, int], int] = {}
    for component, phase in last.items():
        values = pass_groups(phase, plan.workload.values(), plan.costing)[-1].values(plan.workload.values())
        for kind, count in weights.kinds((component,)):
            for how in _attends(kind):
                held = kv.footprint_bytes(how, number_format, values, block_tokens=page)
                if held:
                    one = kv.token_bytes(how, number_format)
                    key = (component, held // one, how.cache_width, one)
                    groups[key] = groups.get(key, 0) + count
    for (component, tokens, width, one), count in groups.items():
        factors = (count, tokens, width, _per_element(one, width))
        yield Term("kv", f"keys and values, {component}", "L c w b", factors, _product(factors))


def _components(plan: Plan, weights: ModelWeights, phase: Phase) -> Iterator[ComponentPass]:
    group = pass_groups(phase, plan.workload.values(), plan.costing)[-1]
    values = group.values(plan.workload.values())
    for component in phase.components:
        first = {id(entry.weights): entry for entry in reversed(weights.by_component[component])}
        each: list[tuple[int, list[_Piece]]] = []
        once: list[tuple[int, list[_Piece]]] = []
        for kind, layers in weights.kinds((component,)):
            costs = operation_costs(kind, phase, values, plan.costing)
            for wanted, found in ((False, each), (True, once)):
                pieces = [
                    piece
                    for cost in costs
                    if cost.once is wanted
                    for piece in _pieces(plan, first[id(kind)], cost, values)
                ]
                found.append((layers, pieces))
        done = ComponentPass(component, tuple(_gathered(each)), tuple(_gathered(once)))
        if done.each or done.once:
            yield done


def _pieces(plan: Plan, entry: LayerWeights, cost: OperationCost, values: dict[str, int]) -> Iterator[_Piece]:
    """Yield the terms of one operation of a layer."""
    rows = int(cost.operation.rows.evaluate(values))
    for read, count in cost.reads:
        yield _weight_piece(entry, read, int(count), rows, uniform=plan.costing.expert_shares is None)
    how = cost.operation.attention
    for moved, what in ((cost.kv_read_bytes, "cache read"), (cost.kv_write_bytes, "cache written")):
        if moved and how is not None:
            one = kv.token_bytes(how, plan.costing.precision.kv)
            factors = (int(moved) // one, how.cache_width, _per_element(one, how.cache_width))
            yield _Piece("kv", what, "c w b", factors)
    if cost.activation_bytes:
        yield _activation_piece(plan, int(cost.activation_bytes), rows)
    if cost.flop:
        yield _flop_piece(entry, cost, rows, values)


def _weight_piece(entry: LayerWeights, read: WeightRead, count: int, rows: int, *, uniform: bool) -> _Piece:
    """Return what one operation reads of one tensor: all of it, rows of it, or the experts visited."""
    tensor, called = read.tensor, _called(entry, read.tensor)
    if count == read.footprint_bytes:
        return _tensor_piece(entry, tensor, count)
    if read.by_row and count == rows * read.row_bytes:
        width = prod(tensor.shape[1:])
        factors = (rows, width, _per_element(read.row_bytes, width))
        return _Piece("weights", f"{called}, rows looked up", "n d b", factors)
    experts = read.operation.experts
    if experts is None:
        return _Piece("weights", f"{called}, the whole table", "W", (count,))
    if uniform:
        missed = f"(1 - {experts.per_token}/{experts.count})^{rows}"
        says = f"({read.footprint_bytes:,} (1 - {missed}))"
        return _Piece("weights", f"{called}, expected", "W (1 - (1 - k/E)^n)", (count,), says)
    return _Piece("weights", f"{called}, expected", "W(n)", (count,))


def _activation_piece(plan: Plan, count: int, rows: int) -> _Piece:
    each = plan.costing.precision.activations.bits_per_element / 8
    width = Fraction(count, rows) / each
    factors: tuple[Factor, ...] = (rows, int(width), _plain(each)) if width.denominator == 1 else (count,)
    return _Piece("activations", "rows in or out", "n d b" if len(factors) > 1 else "bytes", factors)


def _flop_piece(entry: LayerWeights, cost: OperationCost, rows: int, values: dict[str, int]) -> _Piece:
    operation = cost.operation
    called = operation.name or short(entry.layer.name)
    if operation.attention is not None:
        how = operation.attention
        factors = (2, rows, kv.keys_touched(how, values), how.head_dim + how.value_dim, how.heads)
        return _Piece("flop", called, "2 n c (d + d') h", factors)
    if operation.experts is not None:
        visited = operation.experts.per_token
        one = int(cost.flop) // (2 * rows * visited)
        return _Piece("flop", called, "2 n k e", (2, rows, visited, one))
    return _Piece("flop", called, "2 n d d'", (2, rows, operation.in_features, operation.out_features))


def _gathered(kinds: Sequence[tuple[int, Sequence[_Piece]]]) -> Iterator[Term]:
    """Yield the pieces of all kinds of layers as terms: equal ones of a layer counted, then layers added."""
    totals: dict[tuple[_Piece, int], int] = {}
    for layers, pieces in kinds:
        alike: dict[tuple[_Piece, str], list[str]] = {}
        for piece in pieces:
            vector = piece.what if piece.symbols == "d b" else ""  # norms and biases stay apart
            alike.setdefault((replace(piece, what=""), vector), []).append(piece.what)
        for (piece, _), names in alike.items():
            key = (replace(piece, what=joined(names)), len(names))
            totals[key] = totals.get(key, 0) + layers
    for (piece, count), layers in totals.items():
        lead = (layers, count) if count > 1 else (layers,)
        symbols = f"{'L m' if count > 1 else 'L'} {piece.symbols}"
        factors = (*lead, *piece.factors)
        yield Term(piece.kind, piece.what, symbols, factors, _product(factors), piece.last)


def _product(factors: Iterable[Factor]) -> int:
    return int(prod(factors, start=Fraction(1)))


def _attends(kind: BlockWeights) -> list[Attention]:
    return [o.attention for o in kind.block.operations if o.attention and o.attention.cache != "none"]


def _per_element(count: int, elements: int) -> Factor:
    """Return bytes per element, which padding and scales make a fraction."""
    return _plain(Fraction(count, elements))


def _plain(value: Fraction) -> Factor:
    return int(value) if value.denominator == 1 else value


def _shape_symbols(shape: Sequence[int]) -> str:
    names = {0: "b", 1: "d b", 2: "d' d b", 3: "E d' d b", 4: "d' c h w b"}
    return names.get(len(shape), " ".join("d" for _ in shape) + " b")
