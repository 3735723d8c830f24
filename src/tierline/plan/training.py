"""A training step on a machine: what it holds, computes and moves, and how long it takes at best."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tierline.cost.costing import Costing
from tierline.cost.flops import linear_flop
from tierline.cost.footprint import phase_values
from tierline.cost.logits import with_all_logits
from tierline.cost.operations import operation_costs
from tierline.cost.roofline import Load, attainable
from tierline.cost.training import (
    StepFlop,
    Training,
    TrainingFootprint,
    kept_bytes,
    lora_parameters,
    step_flop,
    training_footprint,
)
from tierline.cost.weights import BlockWeights, ModelWeights, weigh
from tierline.errors import InputError
from tierline.machines.machine import Machine
from tierline.models.description import Model, Operation, PlacedTensor
from tierline.models.workload import Workload
from tierline.plan.build import compute_rate
from tierline.plan.phases import has_rows, seconds
from tierline.plan.plan import LinkUse, PhasePlan
from tierline.plan.residency import allowed_bytes

_TRAINABLE = ("fp32", "bf16", "fp16")
_ADAPTED = ("attention", "mlp")
# Decode repeats what the prompt's pass does; a generation is not part of a step.
_NOT_TRAINED = ("decode",)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A step of training: `batch` sequences of `prompt_tokens` tokens, forward, backward and update.

    `kept_bytes` are the activations that all layers keep for the backward pass; `activation_bytes` is the
    most held of them at once with what the backward pass makes beside them.
    """

    model: Model
    machine: Machine
    workload: Workload
    costing: Costing
    training: Training
    trained_parameters: int
    footprint: TrainingFootprint
    kept_bytes: int
    activation_bytes: int
    runtime_bytes: int
    flop: StepFlop
    phase: PhasePlan
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Everything that a step holds."""
        return self.footprint.total_bytes + self.activation_bytes + self.runtime_bytes

    @property
    def update_bytes(self) -> int:
        """What the update moves: it reads and writes states, gradients and copies, and writes the weights."""
        held = self.footprint
        updated = 2 * (held.optimizer_bytes + held.master_bytes + held.gradient_bytes)
        return updated + (held.weights_bytes if self.training.rank is None else 2 * self.trained_parameters)

    @property
    def allowed_bytes(self) -> int:
        """What may be used of the fast tier."""
        return allowed_bytes(self.machine.fast)

    @property
    def fits(self) -> bool:
        """Whether the fast tier holds it all: a step is not streamed."""
        return self.total_bytes <= self.allowed_bytes


@dataclass(slots=True)
class _Forward:
    """The totals of one forward pass; `head_bytes` and `layer_bytes` are of the largest head and layer."""

    flop: int = 0
    attention_flop: int = 0
    adapter_flop: int = 0
    weight_read_bytes: int = 0
    kept_bytes: int = 0
    head_bytes: int = 0
    layer_bytes: int = 0


def plan_training(
    model: Model, machine: Machine, workload: Workload, costing: Costing, training: Training
) -> TrainingPlan:
    """Return what a step of `training` holds, computes and moves; all of it has to be in the fast tier.

    Every phase but decode is run through once, logits of every position included. Raises InputError where
    weights in the format asked for have no gradients, or the model has no pass that is known.
    """
    model = with_all_logits(model)
    weights = weigh(model, costing.precision)
    forward = _forward(model, weights, workload, costing, training)
    if not forward.flop:
        raise InputError(f"{model.name}: no pass of it is known, so that there is nothing to train")
    held, trained = _held(model, weights, costing, training)
    adapters = None if training.rank is None else forward.adapter_flop
    flop = step_flop(forward.flop, forward.attention_flop, training.checkpointing, adapters=adapters)
    beside = max(forward.head_bytes, forward.layer_bytes if training.checkpointing == "full" else 0)
    runtime = int(machine.runtime_bytes.value) if machine.runtime_bytes else 0
    unfinished = TrainingPlan(
        model,
        machine,
        workload,
        costing,
        training,
        trained,
        held,
        forward.kept_bytes,
        forward.kept_bytes + beside,
        runtime,
        flop,
        _phase(workload, forward, training),
        tuple(_notes(model, machine, costing, training)),
    )
    return replace(unfinished, phase=_timed(unfinished))


def training_remedies(plan: TrainingPlan) -> tuple[str, ...]:
    """Return what would make a step fit that does not: every line is that of a step that was planned so."""
    how, work = plan.training, plan.workload
    changes = [
        ("--checkpointing full", work, replace(how, checkpointing="full")),
        ("--batch 1", replace(work, batch=1), how),
        ("--batch 1 --checkpointing full", replace(work, batch=1), replace(how, checkpointing="full")),
        ("--training adamw-8bit --checkpointing full", work, Training("adamw-8bit", None, "full")),
        ("--training lora:rank=16", work, Training("adamw", 16, how.checkpointing)),
        ("--training lora:rank=16 --checkpointing full", work, Training("adamw", 16, "full")),
    ]
    lines = []
    for text, workload, training in changes if not plan.fits else ():
        other = plan_training(plan.model, plan.machine, workload, plan.costing, training)
        speed = other.phase.tokens_per_s
        if other.fits:
            lines.append(f"use {text} (fits" + (f", {speed:,.1f} tok/s)" if speed else ")"))
    return tuple(lines)


def _forward(
    model: Model, weights: ModelWeights, workload: Workload, costing: Costing, training: Training
) -> _Forward:
    """Return the totals of one pass of every phase that is trained."""
    total = _Forward()
    costing = replace(costing, hoist_static=False, activation_policy="none")
    for phase in model.phases:
        asked = workload.values()
        if (
            phase.name in _NOT_TRAINED
            or not phase.passes.evaluate(asked)
            or not has_rows(phase, asked, weights)
        ):
            continue
        values = phase_values(phase, asked)
        for kind, count in weights.kinds(phase.components):
            costs = operation_costs(kind, phase, values, costing)
            total.flop += count * sum(c.flop for c in costs)
            total.attention_flop += count * sum(c.flop for c in costs if c.operation.attention)
            total.weight_read_bytes += count * sum(c.weight_read_bytes for c in costs)
            if training.rank is not None:
                total.adapter_flop += count * _adapter_flop(kind, values, training.rank)
            _keep(total, kind, count, values, costing, training)
    return total


def _keep(
    total: _Forward,
    kind: BlockWeights,
    count: int,
    values: Mapping[str, int],
    costing: Costing,
    training: Training,
) -> None:
    """Add what layers of a kind keep. A head keeps its log-probabilities, and its backward pass makes
    gradients of as many bytes beside them, both in fp32: losses are computed in it."""
    precision, rules = costing.precision, costing.buffers
    how = training.checkpointing if kind.attends else "none"
    total.kept_bytes += count * kept_bytes(kind.block, values, precision.activations, how, rules)
    if kind.attends:
        again = kept_bytes(kind.block, values, precision.activations, "selective", rules)
        total.layer_bytes = max(total.layer_bytes, again)
    elif any(t.kind == "head" for t in kind.block.tensors):
        last = kind.block.operations[-1]
        logits = last.rows.evaluate(values) * last.out_features
        count_bytes = 4 * logits
        total.kept_bytes += count * count_bytes
        total.head_bytes = max(total.head_bytes, count_bytes)


def _adapted(kind: BlockWeights) -> Iterator[tuple[Operation, tuple[int, int]]]:
    """Yield a layer's products with adapters, and (out, in): those of attention and feed-forward."""
    if not kind.attends:
        return
    for operation in kind.block.operations:
        names = [n for n in operation.weights if n in kind.tensors]
        tensors = [kind.tensors[n] for n in names]
        if operation.kind == "linear" and any(t.kind in _ADAPTED and len(t.shape) == 2 for t in tensors):
            yield operation, (operation.out_features, operation.in_features)


def _adapter_flop(kind: BlockWeights, values: Mapping[str, int], rank: int) -> int:
    """Return the FLOP of the adapters' two thin products in a forward pass."""
    return sum(
        linear_flop(operation.rows.evaluate(values), rank, rows + columns)
        for operation, (rows, columns) in _adapted(kind)
    )


def _held(
    model: Model, weights: ModelWeights, costing: Costing, training: Training
) -> tuple[TrainingFootprint, int]:
    """Return what is held for the parameters, each tied one once, and how many are trained."""
    if training.rank is not None:
        kinds = weights.kinds(tuple(weights.kinds_of))
        shapes = [shape for kind, count in kinds for _, shape in list(_adapted(kind)) * count]
        trained = lora_parameters(shapes, training.rank)
        held = training_footprint(weights.tied_bytes + 2 * trained, trained, training.optimizer)
        return held, trained
    tensors = [placed for placed in model.tensors() if not placed.tensor.alias_of]
    wide = sum(p.tensor.elements for p in tensors if _trained_format(p, costing) == "fp32")
    trained = sum(p.tensor.elements for p in tensors)
    narrow = training.gradient_bytes
    held = training_footprint(weights.tied_bytes, trained, training.optimizer, gradient_bytes=narrow)
    # Parameters in fp32 are their own copy, and their gradients are fp32 too.
    gradients = held.gradient_bytes + (4 - narrow) * wide
    return replace(held, master_bytes=held.master_bytes - 4 * wide, gradient_bytes=gradients), trained


def _trained_format(placed: PlacedTensor, costing: Costing) -> str:
    """Return the format of a parameter that is trained; raise InputError for one without gradients."""
    chosen = costing.precision.weights
    name = placed.tensor.stored if chosen is None else chosen.name
    for selector, kept in costing.precision.keep:
        if selector in (placed.component, placed.tensor.kind):
            name = kept.name
    if name not in _TRAINABLE:
        raise InputError(
            f"{placed.name} is in {name}, which has no gradients: train adapters (--training lora:rank=16), "
            f"or use --weights {', '.join(_TRAINABLE[1:])} or {_TRAINABLE[0]}"
        )
    return name


def _phase(workload: Workload, forward: _Forward, training: Training) -> PhasePlan:
    """Return the step as a phase without its times: weights are read forward, backward and again."""
    full = training.checkpointing == "full"
    moved = 2 * forward.kept_bytes  # written by the forward pass, read by the backward pass
    return PhasePlan(
        name="training",
        passes=1,
        tokens=workload.prompt_tokens,
        context=workload.prompt_tokens,
        steps=(),
        weight_read_bytes=(3 if full else 2) * forward.weight_read_bytes,
        static_weight_read_bytes=0,
        kv_read_bytes=0,
        kv_write_bytes=0,
        activation_traffic_bytes=moved,
        flop=0,
        compute_s=None,
        time_s=None,
        bound=None,
        rate_kind=None,
        tokens_per_s=None,
        links=(),
    )


def _timed(plan: TrainingPlan) -> PhasePlan:
    """Return the step with its times, none where it does not fit.

    The update reads gradients, states and copies, and writes states, copies and what is trained.
    """
    machine, phase = plan.machine, plan.phase
    traffic = phase.weight_read_bytes + phase.activation_traffic_bytes + plan.update_bytes
    rate, _ = compute_rate(machine, plan.costing.precision.activations.name)
    compute_s = seconds(plan.flop.total, rate) if plan.fits else None
    port = machine.fast.rate
    link_s = seconds(traffic, port) if plan.fits else None
    link = LinkUse(machine.fast.name, traffic, link_s, port.kind if port else "peak")
    loads = [
        Load(f"link:{link.name}", link.time_s, link.rate_kind),
        Load("compute", compute_s, rate.kind if rate else "peak"),
    ]
    reached = attainable(loads, shared_memory=machine.shared_memory)
    rows = plan.workload.batch * plan.workload.prompt_tokens
    return replace(
        phase,
        flop=plan.flop.total,
        compute_s=compute_s,
        time_s=reached[0] if reached else None,
        bound=reached[1].resource if reached else None,
        rate_kind=reached[1].rate_kind if reached else None,
        tokens_per_s=rows / reached[0] if reached and reached[0] else None,
        links=(link,),
    )


def _notes(model: Model, machine: Machine, costing: Costing, training: Training) -> Iterator[str]:
    yield from machine.notes
    rate_note = compute_rate(machine, costing.precision.activations.name)[1]
    if rate_note:
        yield rate_note
    if training.rank is not None:
        yield "adapters on every matrix of attention and feed-forward; routed experts have none"
    if any(o.experts for c in model.components for x in c.layers for o in x.block.operations):
        yield "the rows gathered for routed experts are kept; what is kept within an expert is not counted"
    if training.checkpointing == "selective" and costing.buffers.kernel == "fused":
        yield "a fused attention kernel keeps no scores: selective checkpointing saves nothing"
