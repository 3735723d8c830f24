"""What options speak of: a model's weights under a precision, a workload, a machine, an operation."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache

from tierline.audit.options import Options
from tierline.cost.activations import ACTIVATION_POLICIES, ActivationPolicy
from tierline.cost.costing import SCOPES, Costing, Scope
from tierline.cost.weights import BlockWeights, LayerWeights, ModelWeights, weigh
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.machines.machine import Machine
from tierline.models.description import Block, Model, Operation, Phase, Tensor
from tierline.models.open import open_model
from tierline.models.workload import Workload

MODEL = ("model",)
PRECISION = ("weights", "kv", "activations", "keep")
WORKLOAD = ("batch", "prompt_tokens", "new", "context", "images", "steps")
MACHINE = ("machine", "set")
LAYERS = ("component", "layers")
STORED = "stored"
TENSORS = (*LAYERS, "classes", "without", "tensors", "static", "tied")


@lru_cache(maxsize=32)
def _model(name: str) -> Model:
    return open_model(name)


@lru_cache(maxsize=32)
def _machine(name: str, overrides: tuple[str, ...]) -> Machine:
    return load_machine(name, overrides)


@lru_cache(maxsize=512)
def _precision(weights: str | None, kv: str, activations: str, keep: tuple[str, ...]) -> Precision:
    return Precision.of(weights=weights, kv=kv, activations=activations, keep=keep)


@lru_cache(maxsize=128)
def _weights(name: str, precision: Precision) -> ModelWeights:
    model = _model(name)
    precision.check_selectors({c.name for c in model.components} | {t.tensor.kind for t in model.tensors()})
    return weigh(model, precision)


def model_of(options: Options) -> Model:
    """Return the model; raise InputError for an unknown one."""
    return _model(options.text("model"))


def machine_of(options: Options) -> Machine:
    """Return the machine with its overrides; raise InputError for an unknown one."""
    return _machine(options.text("machine"), options.texts("set"))


def precision_of(options: Options) -> Precision:
    """Return the formats of weights, KV cache and activations."""
    kv, activations = options.text("kv", "bf16"), options.text("activations", "bf16")
    weights = options.text("weights", STORED)
    return _precision(None if weights == STORED else weights, kv, activations, options.texts("keep"))


def costing_of(options: Options) -> Costing:
    """Return the precision and the policies under which passes are costed."""
    hoist = options.flag("hoist_static", default=True)
    return Costing(precision_of(options), policy_of(options), hoist, include=_scope_of(options))


def _scope_of(options: Options) -> Scope:
    text = options.text("include", "all")
    for scope in SCOPES:
        if scope == text:
            return scope
    raise InputError(f"include {text!r}: want one of {', '.join(SCOPES)}")


def policy_of(options: Options) -> ActivationPolicy:
    """Return the activation policy; raise InputError for an unknown one."""
    text = options.text("activation_policy", "fused")
    for policy in ACTIVATION_POLICIES:
        if policy == text:
            return policy
    raise InputError(f"activation_policy {text!r}: want one of {', '.join(ACTIVATION_POLICIES)}")


def workload_of(options: Options) -> Workload:
    """Return the workload, with one image and the model's own steps where nothing is said."""
    model = model_of(options)
    counts = {
        n: c for n in ("prompt_tokens", "new", "context") if (c := options.optional_count(n)) is not None
    }
    batch, images, steps = (options.optional_count(n) for n in ("batch", "images", "steps"))
    if set(counts) == {"context"}:  # a context alone is one that is full: its last token is the one decoded
        counts = {"prompt_tokens": max(1, counts["context"] - 1), "context": counts["context"]}
    return Workload.of(
        batch=1 if batch is None else batch,
        images=(1 if model.image_tokens else 0) if images is None else images,
        steps=model.default_steps if steps is None else steps,
        **counts,
    )


def layers_of(options: Options) -> ModelWeights:
    """Return the chosen layers with their weights; raise InputError where there is no such layer."""
    model = model_of(options)
    wanted = options.texts("component")
    known = [c.name for c in model.components]
    for name in wanted:
        if name not in known:
            raise InputError(f"{model.name} has no component {name!r}; it has {', '.join(known)}")
    weights = _weights(options.text("model"), precision_of(options))
    entries = {n: layers for n, layers in weights.by_component.items() if not wanted or n in wanted}
    chosen = options.values.get("layers", "all")
    if chosen == "all":
        return _of(entries)
    repeated = {n: tuple(e for e in layers if e.weights.attends) for n, layers in entries.items()}
    if chosen == "repeated":
        return _of(repeated)
    most = max((len(layers) for layers in repeated.values()), default=0)
    if not isinstance(chosen, int) or chosen >= most:
        raise InputError(f"layers {chosen!r}: want all, repeated, or a number below the {most} that attend")
    return _of({n: layers[chosen : chosen + 1] for n, layers in repeated.items()})


def _of(by_component: Mapping[str, tuple[LayerWeights, ...]]) -> ModelWeights:
    """Return these layers as the weights of a model."""
    kinds_of = {}
    for name, layers in by_component.items():
        kinds = {id(entry.weights): entry.weights for entry in layers}
        counts = Counter(id(entry.weights) for entry in layers)
        kinds_of[name] = tuple((kind, counts[key]) for key, kind in kinds.items())
    return ModelWeights(by_component, kinds_of)


def tensors_of(options: Options) -> Iterator[tuple[Tensor, int]]:
    """Yield the chosen tensors with their bytes: those of the file, or with `tied` the distinct ones of it.

    Raises InputError where nothing is chosen.
    """
    tied, static = options.flag("tied", default=False), options.values.get("static")
    classes, without, patterns = (options.texts(n) for n in ("classes", "without", "tensors"))
    found = False
    for entry in layers_of(options).layers:
        still = {n for o in entry.weights.block.operations if o.static for n in o.weights}
        for tensor in entry.weights.block.tensors:
            name = entry.layer.full_name(tensor.name)
            if (classes and tensor.kind not in classes) or tensor.kind in without:
                continue
            if patterns and not any(fnmatchcase(name, p) for p in patterns):
                continue
            if static is not None and (tensor.name in still) != static:
                continue
            found = True
            if tensor.in_file and not (tied and tensor.alias_of):
                yield tensor, entry.weights.tensor_bytes[tensor.name]
    if not found:
        raise InputError("no tensor is chosen by component, layers, classes, without, tensors and static")


def phase_of(options: Options) -> Phase:
    """Return the phase; raise InputError where the model has no such one."""
    model, name = model_of(options), options.text("phase", "decode")
    for phase in model.phases:
        if phase.name == name:
            return phase
    raise InputError(f"{model.name} has no phase {name!r}; it has {', '.join(p.name for p in model.phases)}")


def operation_of(options: Options) -> tuple[Phase, Block, Operation]:
    """Return the first operation whose full name ends so (in `component`, if given), its block and phase."""
    model, end = model_of(options), options.text("operation")
    for entry in layers_of(options.with_({"layers": "all"})).layers:
        for operation in entry.weights.block.operations:
            name = entry.layer.full_name(operation.name)
            if name == end or name.endswith(f".{end}"):
                phase = next(p for p in model.phases if entry.component in p.components)
                return phase, entry.weights.block, operation
    raise InputError(f"{model.name} has no operation that ends in {end!r}")


def with_all_heads(weights: ModelWeights) -> ModelWeights:
    """Return the layers with as many key/value heads as query heads, as if queries were not grouped."""
    made: dict[int, BlockWeights] = {}

    def ungrouped(entry: LayerWeights) -> LayerWeights:
        kind = entry.weights
        if id(kind) not in made:
            operations = tuple(_ungrouped(operation) for operation in kind.block.operations)
            made[id(kind)] = replace(kind, block=replace(kind.block, operations=operations))
        return replace(entry, weights=made[id(kind)])

    return _of({name: tuple(ungrouped(e) for e in layers) for name, layers in weights.by_component.items()})


def _ungrouped(operation: Operation) -> Operation:
    how = operation.attention
    if how is None or not how.cache_width:
        return operation
    width = how.heads * (how.head_dim + how.value_dim)
    return replace(operation, attention=replace(how, kv_heads=how.heads, cache_width=width))
