"""Vision-language-action models of the SmolVLA kind: a truncated VLM, and an expert that denoises actions.

The expert's layers stand beside the VLM's. Each `self_attn_every_n_layers`-th attends to the VLM's keys and
values of the same depth and to its own; the others attend to the VLM's alone, after projections whose
result is the same in every denoising step. Source: lerobot, `policies/smolvla/smolvlm_with_expert.py`.
"""

from dataclasses import dataclass, replace
from itertools import chain

from tierline.models.compose import connector_component, siglip_spec, vision_component, vision_phase
from tierline.models.decoder import decoder_block, head_component, restored, text_component
from tierline.models.decoder_config import AttentionSpec, DecoderConfig, FeedForward, LayerSpec, Names
from tierline.models.description import Attention, Block, Component, Layer, Model, Phase
from tierline.models.extent import Extent
from tierline.models.families import decoder_config, stored_format
from tierline.models.fields import MAX_LAYERS, Fields
from tierline.models.parts import (
    SEQUENCES,
    attention,
    block,
    elementwise,
    embedding,
    linear,
    norm,
)

ROOT = "model.vlm_with_expert"


@dataclass(frozen=True, slots=True)
class _Actions:
    """What the action side is made of; `prefix` counts the tokens that the VLM caches for it."""

    hidden: int
    width: int
    chunk: int
    steps: int
    state_dim: int
    action_dim: int
    self_every: int
    text_tokens: int
    image_tokens: int
    stored: str
    projections_stored: str

    @property
    def prefix(self) -> Extent:
        """Tokens before the actions: every image, the padded instruction, one for the robot's state."""
        return Extent.parse(f"{self.image_tokens}*images + {self.text_tokens + 1}")


def smolvla_model(name: str, fields: Fields, source: str) -> Model:
    """Return the SmolVLA that the catalogue's fields describe.

    Phases: `vision`, `prefill` (the prefix through the VLM's layers) and `denoise` (the expert, `steps`
    times over a chunk of actions). The VLM's head, its final norm's result and all but the instruction's
    rows of the embedding are not used; their bytes still count in the footprint.
    """
    vlm = fields.inner("vlm_config")
    vision, factor = siglip_spec(vlm.inner("vision_config")), vlm.count("scale_factor", default=2)
    stored = stored_format(fields)
    decoder = _truncated(decoder_config(vlm.inner("text_config")), fields, stored)
    how = _Actions(
        hidden=fields.count("expert_hidden_size"),
        width=fields.count("expert_intermediate_size"),
        chunk=fields.count("chunk_size"),
        steps=fields.count("num_steps"),
        state_dim=fields.count("max_state_dim"),
        action_dim=fields.count("max_action_dim"),
        self_every=fields.count("self_attn_every_n_layers"),
        text_tokens=fields.count("tokenizer_max_length"),
        image_tokens=vision.patches // factor**2,
        stored=stored,
        projections_stored=stored_format(fields.inner("projections")),
    )
    root = f"{ROOT}.vlm.model"
    return Model(
        name=name,
        family="smolvla",
        components=(
            vision_component(vision, f"{root}.vision_model", stored),
            connector_component(vision, factor, decoder.hidden, f"{root}.connector", stored),
            Component("state", (_linear("state_proj", how.state_dim, decoder.hidden, SEQUENCES, how),)),
            _prefix_text(decoder, how),
            unused(head_component(decoder)),
            _expert(decoder, how),
        ),
        phases=(
            vision_phase(),
            Phase("prefill", ("state", "text"), Extent.parse("1"), how.prefix, how.prefix),
            Phase("denoise", ("expert",), Extent.parse("steps"), Extent.parse(str(how.chunk)), how.prefix),
        ),
        source=source,
        image_tokens=how.image_tokens,
        default_steps=how.steps,
        notes=("prompt tokens follow from the images: the instruction is padded to a fixed length",),
    )


def _truncated(config: DecoderConfig, fields: Fields, stored: str) -> DecoderConfig:
    """Return the VLM's decoder cut to its first layers, attending in both directions."""
    kept = fields.count("num_vlm_layers", most=MAX_LAYERS)
    specs = (replace(s, attention=replace(s.attention, causal=False)) for s in config.layers[:kept])
    names = Names(root=f"{ROOT}.vlm.model.text_model", head=f"{ROOT}.vlm.lm_head")
    return replace(config, layers=tuple(specs), names=names, stored=stored, tied=False)


def _prefix_text(decoder: DecoderConfig, how: _Actions) -> Component:
    """Return the VLM's text part: it looks up the instruction only, and its last norm is for nothing."""
    table, *layers, last = text_component(decoder).layers
    rows = Extent.parse(f"{how.text_tokens}*batch")
    looked_up = block([embedding("", decoder.vocab, decoder.hidden, rows=rows)])
    table = Layer(table.name, table.index, restored(looked_up, how.stored))
    return Component("text", (table, *layers, Layer(last.name, last.index, Block(last.block.tensors, ()))))


def unused(component: Component) -> Component:
    """Return a component that is in the file and that nothing runs."""
    return Component(
        component.name,
        tuple(Layer(x.name, x.index, Block(x.block.tensors, ())) for x in component.layers),
    )


def _expert(decoder: DecoderConfig, how: _Actions) -> Component:
    """Return the action expert in execution order: actions and time in, its layers, actions out."""
    rows, root = Extent.parse("batch*tokens"), f"{ROOT}.lm_expert"
    attend = decoder.layers[0].attention
    narrow = replace(
        decoder, hidden=how.hidden, layers=(LayerSpec(attend, FeedForward(how.width)),), names=Names()
    )
    both = joint_block(narrow, how.prefix, how.chunk)
    alone = _cross_block(both, attend, how)
    layers = (
        Layer(f"{root}.layers.{i}", i, alone if i % how.self_every else both)
        for i in range(len(decoder.layers))
    )
    return Component(
        "expert",
        (
            _linear("action_in_proj", how.action_dim, how.hidden, rows, how),
            _linear("action_time_mlp_in", 2 * how.hidden, how.hidden, rows, how),
            _linear("action_time_mlp_out", how.hidden, how.hidden, rows, how),
            *layers,
            Layer(f"{root}.norm", 0, restored(block([norm("", how.hidden)]), how.stored)),
            _linear("action_out_proj", how.hidden, how.action_dim, rows, how),
        ),
    )


def joint_block(config: DecoderConfig, prefix: Extent, own: int) -> Block:
    """Return a layer that attends to a prefix which another layer cached and to `own` keys of this pass.

    The one attention stands as two operations, because only the first reads a cache.
    """
    spec = config.layers[0]
    made = restored(decoder_block(config, spec), config.stored)
    attend = spec.attention
    shape = (attend.heads, attend.kv_heads, attend.head_dim, attend.value_dim)
    width = attend.kv_heads * (attend.head_dim + attend.value_dim)
    over = (
        ("self_attn.prefix", Attention(*shape, prefix, "shared", width, causal=False)),
        ("self_attn.own", Attention(*shape, Extent.parse(str(own)), causal=attend.causal)),
    )
    parts = tuple(attention(name, how).operations[0] for name, how in over)
    operations = (parts if o.kind == "attention" else (o,) for o in made.operations)
    return Block(made.tensors, tuple(chain.from_iterable(operations)))


def _cross_block(joint: Block, attend: AttentionSpec, how: _Actions) -> Block:
    """Return the layer that attends to the VLM's keys and values alone, projected once for all steps."""
    keys = attend.kv_heads * attend.head_dim
    every = Extent(tuple((c, tuple(sorted(("batch", *v)))) for c, v in how.prefix.terms))
    kept = Attention(
        attend.heads,
        attend.kv_heads,
        attend.head_dim,
        attend.head_dim,
        how.prefix,
        "cross",
        2 * keys,
        causal=False,
    )
    projections = ("self_attn.k_proj", "self_attn.v_proj")
    tensors = tuple(
        replace(t, shape=(keys, keys), stored=how.projections_stored)
        if t.name.removesuffix(".weight") in projections
        else t
        for t in joint.tensors
    )
    operations = (
        replace(o, in_features=keys, rows=every, static=True) if o.name in projections else o
        for o in joint.operations
        if o.name != "self_attn.own"
    )
    crossed = (
        replace(o, name="self_attn", attention=kept) if o.kind == "attention" else o for o in operations
    )
    return Block(tensors, tuple(crossed))


def _linear(name: str, in_features: int, out_features: int, rows: Extent, how: _Actions) -> Layer:
    """Return one of the projections around the expert; the first of the time MLP is followed by a SiLU."""
    parts = [linear("", in_features, out_features, "projection", rows=rows, bias=True)]
    if name.endswith("mlp_in"):
        parts.append(elementwise("silu", out_features, rows=rows))
    return Layer(f"model.{name}", 0, restored(block(parts), how.projections_stored))
