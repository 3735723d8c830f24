"""The description of a decoder-only transformer, made from its `DecoderConfig`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tierline.models.decoder_config import AttentionSpec, DecoderConfig, ExpertSet, FeedForward, LayerSpec
from tierline.models.description import Attention, Block, Component, Experts, Layer, Model, Phase, Tensor
from tierline.models.extent import Extent
from tierline.models.parts import (
    CONTEXT,
    ROWS,
    SEQUENCES,
    Part,
    attention,
    block,
    elementwise,
    embedding,
    experts,
    linear,
    norm,
    positions,
)

CACHED_ROWS = Extent.parse("batch*context")
CORRECTION = "e_score_correction_bias"


def decoder_model(name: str, config: DecoderConfig, source: str) -> Model:
    """Return the described model: components `text` and `head`, phases `prefill` and `decode`."""
    return Model(
        name=name,
        family=config.family,
        components=(text_component(config), head_component(config)),
        phases=text_phases(),
        source=source,
        max_context=config.max_context,
        notes=config.notes,
    )


def text_phases() -> tuple[Phase, ...]:
    """Return prefill (one pass over the prompt) and decode (a pass per new token, at the full context)."""
    one, prompt = Extent.parse("1"), Extent.parse("prompt_tokens")
    parts = ("text", "head")
    return (
        Phase("prefill", parts, one, prompt, prompt),
        Phase("decode", parts, Extent.parse("new"), one, Extent.parse("context")),
    )


def text_component(config: DecoderConfig) -> Component:
    """Return the embedding, the decoder layers and the final norm, under the module `config.names.root`."""
    names, root = config.names, config.names.root
    layers = [_single(f"{root}.{names.embed}", embedding("", config.vocab, config.hidden), config.stored)]
    if config.positions:
        table = positions("", config.positions, config.hidden)
        layers.append(_single(f"{root}.{names.positions}", table, config.stored))
    correction = f"{names.feed_forward}.{names.router}.{CORRECTION}"  # kept in fp32 by all who have it
    made = {spec: restored(decoder_block(config, spec), config.stored) for spec in set(config.layers)}
    blocks = {spec: with_stored(one, (correction,), "fp32") for spec, one in made.items()}
    layers += [Layer(f"{root}.{names.layers}.{i}", i, blocks[spec]) for i, spec in enumerate(config.layers)]
    final = norm("", config.hidden, bias=config.norm_bias)
    layers.append(_single(f"{root}.{names.final_norm}", final, config.stored))
    return Component("text", tuple(layers))


def head_component(config: DecoderConfig, *, in_file: bool | None = None) -> Component:
    """Return the head; a tied one is an alias of the embedding and, unless `in_file`, not in the file.

    Its rows are one per sequence: only the last position's logits are needed.
    """
    part = linear("", config.hidden, config.vocab, "head", rows=SEQUENCES, bias=config.head_bias)
    weight, *others = part.tensors
    alias = f"{config.names.root}.{config.names.embed}.weight" if config.tied else ""
    held = not config.tied if in_file is None else in_file
    weight = Tensor(weight.name, weight.shape, weight.kind, alias_of=alias, in_file=held)
    head = Part((weight, *others), part.operations)
    return Component("head", (_single(config.names.head, head, config.stored),))


def restored(made: Block, stored: str) -> Block:
    """Return the block with every tensor stored in the format `stored`."""
    return with_stored(made, {t.name for t in made.tensors}, stored)


def with_stored(made: Block, names: Iterable[str], stored: str) -> Block:
    """Return the block with the tensors of these names stored in the format `stored`."""
    tensors = tuple(replace(t, stored=stored) if t.name in names else t for t in made.tensors)
    return Block(tensors, made.operations)


def decoder_block(config: DecoderConfig, spec: LayerSpec) -> Block:
    """Return the block of one kind of layer, operations in the order transformers runs them."""
    return block(_arranged(config, list(_attention(config, spec)), list(_feed_forward(config, spec))))


def _arranged(config: DecoderConfig, attend: list[Part], feed: list[Part]) -> list[Part]:
    """Put the norms around attention and feed-forward as the family's layout says."""
    norms = [norm(n, config.hidden, bias=config.norm_bias) for n in config.names.norms]
    match config.layout:
        case "pre":
            return [norms[0], *attend, norms[1], *feed]
        case "sandwich":
            return [norms[0], *attend, norms[1], norms[2], *feed, norms[3]]
        case "post":
            return [*attend, norms[0], *feed, norms[1]]
        case "parallel":
            return [norms[0], *attend, *feed]
        case "parallel_two":
            return [norms[0], norms[1], *attend, *feed]


def _single(name: str, part: Part, stored: str) -> Layer:
    """Return a layer that stands alone."""
    return Layer(name, 0, restored(block([part]), stored))


def _attention(config: DecoderConfig, spec: LayerSpec) -> Iterator[Part]:
    """Yield the parts of the attention of one layer."""
    names, how = config.names, spec.attention
    path = names.attention
    projections = _latent_projections if how.latent else _fused_qkv if how.fused else _split_qkv
    yield from projections(config, how)
    cached = how.latent.kv_rank + how.latent.rope_dim if how.latent else 0
    cached = cached or how.kv_heads * (how.head_dim + how.value_dim)
    sinks = (Tensor(f"{path}.sinks", (how.heads,), "attention"),) if how.sinks else ()
    yield Part(sinks)
    yield attention(
        path,
        Attention(
            how.heads,
            how.kv_heads,
            how.head_dim,
            how.value_dim,
            CONTEXT,
            "append",
            cached,
            how.window,
            how.causal,
        ),
        weights=tuple(t.name for t in sinks),
    )
    yield linear(
        f"{path}.{names.out}",
        how.heads * how.value_dim,
        config.hidden,
        "attention",
        bias=how.out_bias,
        transposed=config.transposed,
    )


def _split_qkv(config: DecoderConfig, how: AttentionSpec) -> Iterator[Part]:
    """Yield separate projections of queries, keys and values, and the norms of the first two."""
    names, path = config.names, config.names.attention
    widths = (how.heads * how.head_dim, how.kv_heads * how.head_dim, how.kv_heads * how.value_dim)
    query, key, value = (
        linear(f"{path}.{name}", config.hidden, width, "attention", bias=how.qkv_bias)
        for name, width in zip((names.query, names.key, names.value), widths, strict=True)
    )
    if how.norm == "none":
        yield from (query, key, value)
        return
    query_norm = _head_norm(f"{path}.{names.query_norm}", how, how.heads, config.norm_bias)
    key_norm = _head_norm(f"{path}.{names.key_norm}", how, how.kv_heads, config.norm_bias)
    if how.norm_last:
        yield from (query, key, value, query_norm, key_norm)
    else:
        yield from (query, query_norm, key, key_norm, value)


def _head_norm(path: str, how: AttentionSpec, heads: int, bias: bool) -> Part:
    """Return a norm of queries or keys: over each head, over all heads at once, or with a weight per head."""
    if how.norm == "all":
        return norm(path, heads * how.head_dim, bias=bias)
    rows = Extent(tuple((c * heads, v) for c, v in ROWS.terms))
    one = norm(path, how.head_dim, rows=rows, bias=bias)
    if how.norm == "head":
        return one
    tensors = tuple(Tensor(t.name, (heads, how.head_dim), t.kind) for t in one.tensors)
    return Part(tensors, one.operations)


def _fused_qkv(config: DecoderConfig, how: AttentionSpec) -> Iterator[Part]:
    """Yield one projection that makes queries, keys and values together."""
    width = how.heads * how.head_dim + how.kv_heads * (how.head_dim + how.value_dim)
    yield linear(
        f"{config.names.attention}.{config.names.fused_qkv}",
        config.hidden,
        width,
        "attention",
        bias=how.qkv_bias,
        transposed=config.transposed,
    )


def _latent_projections(config: DecoderConfig, how: AttentionSpec) -> Iterator[Part]:
    """Yield DeepSeek's projections: queries and keys/values through low ranks, only the latent cached."""
    latent, path = how.latent, config.names.attention
    assert latent is not None  # noqa: S101 - chosen by the caller
    queries = how.heads * how.head_dim
    if latent.query_rank is None:
        yield linear(f"{path}.q_proj", config.hidden, queries, "attention")
    else:
        rank = latent.query_rank
        yield linear(f"{path}.q_a_proj", config.hidden, rank, "attention", bias=latent.bias)
        yield norm(f"{path}.q_a_layernorm", rank)
        yield linear(f"{path}.q_b_proj", rank, queries, "attention")
    compressed = latent.kv_rank + latent.rope_dim
    yield linear(f"{path}.kv_a_proj_with_mqa", config.hidden, compressed, "attention", bias=latent.bias)
    yield norm(f"{path}.kv_a_layernorm", latent.kv_rank)
    expanded = how.heads * (how.head_dim - latent.rope_dim + how.value_dim)
    # The cache holds the latent: keys and values of the whole context are expanded from it in every pass.
    yield linear(f"{path}.kv_b_proj", latent.kv_rank, expanded, "attention", rows=CACHED_ROWS)


def _feed_forward(config: DecoderConfig, spec: LayerSpec) -> Iterator[Part]:
    """Yield the parts of the feed-forward of one layer."""
    path = config.names.feed_forward
    if isinstance(spec.feed_forward, FeedForward):
        yield from mlp(config, path, spec.feed_forward)
        return
    how = spec.feed_forward
    router = _router(config, how)
    routed = experts(
        f"{path}.experts", config.hidden, _expert_tensors(config, how), Experts(how.count, how.per_token)
    )
    shared_path = f"{path}.{config.names.shared}"
    shared = list(mlp(config, shared_path, FeedForward(how.shared_width))) if how.shared_width else []
    yield from (*shared, router, routed) if how.shared_first else (router, routed, *shared)
    if how.shared_gate:
        yield linear(f"{shared_path}_gate", config.hidden, 1, "router")


def mlp(config: DecoderConfig, path: str, how: FeedForward) -> Iterator[Part]:
    """Yield a dense feed-forward under `path`."""
    names, hidden = config.names, config.hidden
    turned = config.transposed
    if how.kind == "fused":
        yield linear(f"{path}.{names.fused_gate_up}", hidden, 2 * how.width, "mlp", bias=how.bias)
        yield elementwise(f"{path}.{names.activation}", how.width)
    else:
        first = names.gate if how.kind == "gated" else names.up
        yield linear(f"{path}.{first}", hidden, how.width, "mlp", bias=how.bias, transposed=turned)
        yield elementwise(f"{path}.{names.activation}", how.width)
        if how.kind == "gated":
            yield linear(f"{path}.{names.up}", hidden, how.width, "mlp", bias=how.bias)
    yield linear(f"{path}.{names.down}", how.width, hidden, "mlp", bias=how.bias, transposed=turned)


def _router(config: DecoderConfig, how: ExpertSet) -> Part:
    """Return the linear map that scores the experts, and the correction that some add for choosing."""
    name = config.names.router
    path = f"{config.names.feed_forward}.{name}"
    part = linear(path, config.hidden, how.count, "router", bias=how.bias)
    stored = f"{_stored_root(config, how)}.{name}" if how.stored_path else ""
    tensors = [
        Tensor(t.name, t.shape, t.kind, stored_name=f"{stored}.weight" if stored else "")
        for t in part.tensors
    ]
    if not how.correction:
        return Part(tuple(tensors), part.operations)
    tensors.append(Tensor(f"{path}.{CORRECTION}", (how.count,), "router"))
    scored = replace(part.operations[0], weights=tuple(t.name for t in tensors))
    return Part(tuple(tensors), (scored,))


def _expert_tensors(config: DecoderConfig, how: ExpertSet) -> tuple[Tensor, ...]:
    """Return the fused tensors of all experts, with the names that checkpoints store them under."""
    path, hidden = f"{config.names.feed_forward}.experts", config.hidden
    up, down = (how.count, 2 * how.width, hidden), (how.count, hidden, how.width)
    if how.transposed:
        up, down = (how.count, hidden, 2 * how.width), (how.count, how.width, hidden)
    stored_up, stored_down = "", ""
    if how.stored:
        gate_name, up_name, down_name = (f"{_stored_root(config, how)}.{n}.weight" for n in how.stored)
        stored_up, stored_down = f"{gate_name} + {up_name}", down_name
    tensors = [Tensor(f"{path}.gate_up_proj", up, "experts", stored_name=stored_up)]
    if how.bias:
        tensors.append(Tensor(f"{path}.gate_up_proj_bias", (how.count, 2 * how.width), "biases"))
    tensors.append(Tensor(f"{path}.down_proj", down, "experts", stored_name=stored_down))
    if how.bias:
        tensors.append(Tensor(f"{path}.down_proj_bias", (how.count, hidden), "biases"))
    return tuple(tensors)


def _stored_root(config: DecoderConfig, how: ExpertSet) -> str:
    """Return the path of the experts in a checkpoint, `{i}` for the layer."""
    names = config.names
    return f"{names.root}.{names.layers}.{{i}}.{how.stored_path or names.feed_forward}"
