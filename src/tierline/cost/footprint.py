"""What must be held at once: weights, KV cache and activations."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from tierline.cost import kv
from tierline.cost.amount import Amount, Values, element_bytes, larger, smaller
from tierline.cost.arena import arena_bytes
from tierline.cost.buffers import BufferRules, layer_buffers
from tierline.cost.costing import Costing
from tierline.cost.passes import pass_groups
from tierline.cost.weights import BlockWeights, ModelWeights
from tierline.formats.format import Format
from tierline.formats.parse import parse_format
from tierline.models.description import Attention, Model, Phase

# Phases of a decoder, for whose largest pass an arena is reserved.
_RESERVED = ("prefill", "decode")
_SETTLED = 3
# Copies are interleaved by eight rows; a matrix whose rows do not divide has none (logged by real loads).
_REPACKED_ROWS = 8


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
                kv.footprint_bytes(
                    how,
                    costing.precision.kv,
                    values,
                    block_tokens=costing.kv_block_tokens,
                    spare_tokens=costing.kv_spare_tokens,
                )
                for how in (o.attention for o in kind.block.operations)
                if how is not None and how.cache != "none"
            )
    return total


def repacked_bytes(weights: ModelWeights, formats: Collection[str]) -> int:
    """Return the bytes of a second copy of every matrix in one of `formats` that is multiplied by.

    Tables that are only looked up are not copied; a tied head is, beside its table.
    """
    total = 0
    for kind, count in weights.kinds(tuple(weights.kinds_of)):
        for read in chain.from_iterable(kind.by_operation):
            whole = read.is_matrix and not read.tensor.shape[-2] % _REPACKED_ROWS
            if whole and not read.by_row and read.format_name in formats:
                total += count * read.footprint_bytes
    return total


def phase_values(phase: Phase, workload: Mapping[str, Amount]) -> dict[str, Amount]:
    """Return the workload's variables with `tokens` and `context` as this phase means them."""
    bound = {"tokens": phase.tokens.evaluate(workload), "context": phase.context.evaluate(workload)}
    return {**workload, **bound}


def working_set_bytes(
    model: Model, weights: ModelWeights, workload: Mapping[str, Amount], costing: Costing
) -> Amount:
    """Return the most activation bytes live at once over all phases that run, KV cache apart.

    That of the layer with the most (see `buffers.layer_buffers`) and, for layers that attend, what is held
    beside them throughout the pass: rotary tables and, with an eager kernel, the mask. The policy
    `materialised` implies an eager kernel. Logits count in their own format. 0 under the policy `none`.
    With the rule `arena`, prefill and decode share a block for the largest pass there could be; arrays of
    workloads are then costed as without it, which is less.
    """
    most: Amount = 0
    if costing.activation_policy == "none":
        return most
    rules = costing.buffers
    if costing.activation_policy == "materialised":
        rules = replace(rules, kernel="eager")
    placed = rules.arena and all(isinstance(value, int) for value in workload.values())
    for phase in model.phases:
        passes = phase.passes.evaluate(workload)
        if isinstance(passes, int) and not passes:
            continue
        if placed and phase.name in _RESERVED:
            most = larger(most, _arena_bytes(weights, phase, workload, costing))
            continue
        kinds = [kind for kind, _ in weights.kinds(phase.components)]
        rotary = rules.rotary and not any(t.kind == "positions" for k in kinds for t in k.block.tensors)
        for group in pass_groups(phase, workload, costing):
            values = group.values(workload)
            runs = smaller(group.passes, 1 + 0 * group.passes)  # in an array some may have no such pass
            for kind in kinds:
                live = _live_bytes(kind, values, costing, replace(rules, rotary=rotary))
                most = larger(most, runs * live)
    return most


def _arena_bytes(weights: ModelWeights, phase: Phase, workload: Mapping[str, int], costing: Costing) -> int:
    """Return what is reserved for the largest pass, over a full context, with the mask and the logits' copy.

    Rows of all sequences together are at most those of a chunk. Layers that follow one of the same kind find
    the same gaps as it did; three of each kind are placed.
    """
    rules, precision = costing.buffers, costing.precision
    context = kv.paged(workload["context"], costing.kv_block_tokens)
    rows = min(costing.prefill_chunk or context, context)
    values = {**workload, "batch": 1, "prompt_tokens": rows, "tokens": rows, "context": context}
    number_format = parse_format(rules.format) if rules.format else precision.activations
    layers, masks, logits = [], {0}, 0
    for kind, count in weights.kinds(phase.components):
        if kind.attends:
            made = layer_buffers(kind.block, values, number_format, rules, kv_format=precision.kv)
            layers += [made] * min(count, _SETTLED)
            hows = [o.attention for o in kind.block.operations if o.attention]
            masks |= {_beside_bytes(how, values, number_format, rules) for how in hows}
        elif any(t.kind == "head" for t in kind.block.tensors):
            last = kind.block.operations[-1]
            asked = {**workload, "tokens": phase.tokens.evaluate(workload)}
            logits = element_bytes(last.rows.evaluate(asked) * last.out_features, number_format)
    placed = arena_bytes(layers, other_inputs=True) if layers else 0
    return int(placed + max(masks) + logits)


def _live_bytes(kind: BlockWeights, values: Values, costing: Costing, rules: BufferRules) -> Amount:
    """Return the peak of one layer with what its pass holds beside it."""
    is_head = any(t.kind == "head" for t in kind.block.tensors)
    number_format = costing.precision.logits if is_head else costing.precision.activations
    if rules.format:
        number_format = parse_format(rules.format)
    made = layer_buffers(
        kind.block,
        values,
        number_format,
        rules,
        kv_format=costing.precision.kv,
        first_layer=not kind.attends,
    )
    beside: Amount = 0
    for how in (o.attention for o in kind.block.operations):
        if how is not None and how.cache == "append":
            beside = larger(beside, _beside_bytes(how, values, number_format, rules))
    return made.peak_bytes + beside


def _beside_bytes(how: Attention, values: Values, number_format: Format, rules: BufferRules) -> Amount:
    """Return what a pass holds for its attention: tables of sines and cosines, the mask."""
    tables = 2 * values["tokens"] * how.head_dim if rules.rotary and rules.held else 0
    bytes_held = element_bytes(tables, number_format)
    if rules.mask:
        cells = values["batch"] * values["tokens"] * how.keys.evaluate(values)
        bytes_held = bytes_held + element_bytes(
            cells, number_format if rules.mask == "same" else parse_format(rules.mask)
        )
    return bytes_held
