"""What every pass of a plan asks of the machine: weights to read, KV that grows, activations, arithmetic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from tierline.cost.costing import Costing
from tierline.cost.footprint import kv_cache_bytes
from tierline.cost.layer_pass import LayerPass, OwnerRead, layer_pass
from tierline.cost.passes import PassGroup, pass_groups
from tierline.cost.weights import BlockWeights, ModelWeights
from tierline.errors import InputError
from tierline.models.description import Phase
from tierline.models.extent import Extent
from tierline.plan.plan import Plan
from tierline.sim.options import Speculation

_MOST_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """A layer's turn in a pass: its weight reads, its cache traffic, what else crosses the port, its FLOP."""

    layer: str
    reads: Sequence[OwnerRead]
    kv_read_bytes: int
    kv_write_bytes: int
    activation_bytes: int
    flop: int


@dataclass(frozen=True, slots=True)
class PassDemand:
    """One pass: `tokens` are what it makes over the batch (0 for phases that make none).

    `context` is the number of tokens in the cache when the pass ends; `draft_s` what drafting took before.
    """

    phase: str
    index: int
    tokens: float
    context: int
    turns: tuple[Turn, ...]
    draft_s: float = 0.0


@dataclass(frozen=True)
class Demand:
    """All passes of the phases that are simulated, and what the model holds while they run."""

    plan: Plan
    weights: ModelWeights
    phases: tuple[Phase, ...]
    passes: tuple[PassDemand, ...]

    def kv_bytes(self, phase: str, context: int) -> int:
        """Return the footprint of the cache with `context` tokens in it."""
        described = next(p for p in self.phases if p.name == phase)
        values = self.plan.workload.values()
        if phase in ("prefill", "decode"):
            prompt = min(context, values["prompt_tokens"])
            values |= {"prompt_tokens": prompt, "new": context - prompt, "context": context}
        elif self.plan.model.phases.index(described) < _first_caching(self.plan):
            return 0
        return int(kv_cache_bytes(self.plan.model, self.weights, values, self.plan.costing))


def demand(
    plan: Plan,
    names: Sequence[str],
    speculation: Speculation | None,
    tile_bytes: int | None = None,
    last: int | None = None,
) -> Demand:
    """Return what the phases called `names` (all if empty) ask for, pass by pass.

    Decode passes each have their own context; of each phase the `last` passes are made (None: all). Raises
    InputError for a phase that the plan lacks, and where there would be more than 1,000,000 steps, of layers
    cut into tiles of `tile_bytes` if that is given.
    """
    planned = [p.name for p in plan.phases]
    for name in names:
        if name not in planned:
            raise InputError(
                f"--phase {name[:40]!r}: {plan.model.name} has {', '.join(planned) or 'none'} here"
            )
    weights = plan.weights
    costing = replace(plan.costing, average_decode=True)
    phases = tuple(p for p in plan.model.phases if p.name in (names or planned) and p.name in planned)
    if not phases:
        raise InputError(f"{plan.model.name}: nothing to simulate, because no phase of it is known")
    passes: list[PassDemand] = []
    for phase in phases:
        _check_steps(phase, plan, weights, tile_bytes, last)
        if speculation is not None and phase.name == "decode":
            made = list(_speculative(phase, plan, weights, costing, speculation))
            passes += made if last is None else made[-last:]
        else:
            passes += _plain(phase, plan, weights, costing, last)
    return Demand(plan, weights, phases, tuple(passes))


def _check_steps(
    phase: Phase, plan: Plan, weights: ModelWeights, tile_bytes: int | None, last: int | None
) -> None:
    per_pass = sum(_steps_of(entry.weights, tile_bytes) for entry in weights.of(phase.components))
    count = phase.passes.evaluate(plan.workload.values())
    steps = (count if last is None else min(count, last)) * per_pass
    if steps > _MOST_STEPS:
        larger = ", or larger tiles with --tile" if tile_bytes else ""
        raise InputError(
            f"{phase.name}: {steps:,} layer steps are more than the {_MOST_STEPS:,} that are simulated; "
            f"ask for fewer passes with --new or --steps{larger}"
        )


def _steps_of(weights: BlockWeights, tile_bytes: int | None) -> int:
    """Return in how many steps a layer is read: one, or one for each tile (of a row at least)."""
    if tile_bytes is None:
        return 1
    shapes = weights.tensors
    return max(
        1,
        sum(
            min(shapes[name].shape[0] if shapes[name].shape else 1, -(-total // tile_bytes))
            for name, total in weights.tensor_bytes.items()
        ),
    )


def _first_caching(plan: Plan) -> int:
    """Return the place of the first phase that fills a cache."""
    caching = [
        i
        for i, phase in enumerate(plan.model.phases)
        for c in plan.model.components
        if c.name in phase.components
        if any(o.attention and o.attention.cache_width for x in c.layers for o in x.block.operations)
    ]
    return min(caching, default=0)


def _plain(
    phase: Phase, plan: Plan, weights: ModelWeights, costing: Costing, last: int | None
) -> Iterator[PassDemand]:
    workload = plan.workload.values()
    kinds = weights.kinds(phase.components)
    attends = [o.attention for kind, _ in kinds for o in kind.block.operations if o.attention]
    windows = {how.window for how in attends if how.window is not None}
    index = 0
    groups = pass_groups(phase, workload, costing, windows)
    skipped = 0 if last is None else max(0, sum(group.passes for group in groups) - last)
    for group in groups:
        if index + group.passes <= skipped:
            index += group.passes
            continue
        edges = {
            id(kind): tuple(
                layer_pass(kind, phase, group.values(workload, first=f), costing) for f in (True, False)
            )
            for kind, _ in kinds
        }
        first = max(0, skipped - index)
        index += first
        for i in range(first, group.passes):
            share = (i, group.passes - 1)
            turns = tuple(_turns(phase, weights, edges, share, static=index == 0))
            yield PassDemand(phase.name, index, _tokens(phase, plan, group), _context(group, share), turns)
            index += 1


def _turns(
    phase: Phase,
    weights: ModelWeights,
    edges: Mapping[int, tuple[LayerPass, ...]],
    share: tuple[int, int],
    *,
    static: bool,
) -> Iterator[Turn]:
    """Yield the turns of a pass that is `share` of the way from the first of its group to the last."""
    made: dict[int, tuple[Sequence[OwnerRead], tuple[int, ...]]] = {}
    for key, (first, last) in edges.items():
        counts = tuple(
            _between(getattr(first, name), getattr(last, name), share)
            for name in ("kv_read_bytes", "kv_write_bytes", "activation_bytes", "flop")
        )
        once = (last.static_activation_bytes, last.static_flop) if static else (0, 0)
        reads: Sequence[OwnerRead] = (*last.static_reads, *last.reads) if static else last.reads
        made[key] = (reads, (counts[0], counts[1], counts[2] + once[0], counts[3] + once[1]))
    for entry in weights.of(phase.components):
        reads, counts = made[id(entry.weights)]
        yield Turn(entry.layer.name, reads, *counts)


def _between(first: int, last: int, share: tuple[int, int]) -> int:
    done, of = share
    return last if done == of else first + (last - first) * done // of


def _context(group: PassGroup, share: tuple[int, int]) -> int:
    return _between(group.first_context, group.context, share)


def _tokens(phase: Phase, plan: Plan, group: PassGroup) -> int:
    """Return the tokens that a pass stands for: those it makes, or of a prompt those it takes."""
    return plan.workload.batch * group.tokens if phase.name in ("prefill", "decode") else 0


def _speculative(
    phase: Phase, plan: Plan, weights: ModelWeights, costing: Costing, speculation: Speculation
) -> Iterator[PassDemand]:
    """Yield passes that check `draft_tokens` + 1 rows and keep the expected number of them."""
    rows, accepted, workload = speculation.draft_tokens + 1, speculation.tokens_per_pass, plan.workload
    checking = replace(phase, tokens=Extent.parse(str(rows)))
    kinds = weights.kinds(phase.components)
    for index in range(ceil(workload.new / accepted - 1e-9)):
        context = workload.prompt_tokens + int(index * accepted) + rows
        values = {**workload.values(), "tokens": rows, "context": context}
        costs = {id(kind): (layer_pass(kind, checking, values, costing),) * 2 for kind, _ in kinds}
        turns = tuple(_turns(checking, weights, costs, (0, 0), static=index == 0))
        kept = min(accepted, workload.new - index * accepted) * workload.batch
        drafting_s = speculation.draft_tokens * speculation.draft_s
        yield PassDemand(phase.name, index, kept, context, turns, drafting_s)
