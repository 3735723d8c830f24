"""Models put together from parts: a vision tower, a connector and a decoder (Idefics3, SmolVLM)."""

from dataclasses import dataclass, replace

from tierline.models.decoder import head_component, restored, text_component, text_phases
from tierline.models.description import Attention, Component, Layer, Model, Phase
from tierline.models.extent import Extent
from tierline.models.families import decoder_config, stored_format
from tierline.models.fields import MAX_LAYERS, Fields
from tierline.models.parts import Part, attention, block, conv, elementwise, linear, norm, positions

ONE = Extent.parse("1")


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """A SigLIP-like vision tower: square images of `image_size` cut in patches of `patch_size`."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    image_size: int
    patch_size: int
    channels: int = 3

    @property
    def patches(self) -> int:
        """Rows that one image makes."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def rows(self) -> Extent:
        """Rows of all images of the batch."""
        return Extent.parse(f"{self.patches}*batch*images")


def smolvlm_model(name: str, fields: Fields, source: str) -> Model:
    """Return the SmolVLM (Idefics3) that a `config.json` describes: vision, connector, text and head.

    An image in the workload is one crop of `image_size`, `image_tokens` rows of the prompt. A checkpoint
    may store the head beside an embedding that it equals; the catalogue says so in a field of its own,
    `head_copies_embedding`, and the head is then an alias that is in the file.
    """
    vision = siglip_spec(fields.inner("vision_config"))
    text = fields.inner("text_config")
    decoder = decoder_config(text)
    copied = fields.flag("head_copies_embedding", False)
    decoder = replace(
        decoder,
        names=replace(decoder.names, root="model.text_model"),
        stored=stored_format(fields),
        tied=fields.flag("tie_word_embeddings", False) or copied,
    )
    factor = fields.count("scale_factor", default=2)
    parts = (
        vision_component(vision, "model.vision_model", decoder.stored),
        connector_component(vision, factor, decoder.hidden, "model.connector", decoder.stored),
        text_component(decoder),
        head_component(decoder, in_file=True if copied else None),
    )
    return Model(
        name=name,
        family=fields.text("model_type"),
        components=parts,
        phases=(vision_phase(), *text_phases()),
        source=source,
        max_context=decoder.max_context,
        image_tokens=vision.patches // factor**2,
        notes=decoder.notes,
    )


def siglip_spec(fields: Fields) -> VisionSpec:
    """Return the vision tower that a `vision_config` describes."""
    spec = VisionSpec(
        hidden=fields.count("hidden_size", default=1152),
        intermediate=fields.count("intermediate_size", default=3072),
        layers=fields.count("num_hidden_layers", default=12, most=MAX_LAYERS),
        heads=fields.count("num_attention_heads", default=16, most=2**16),
        image_size=fields.count("image_size", default=224, most=2**16),
        patch_size=fields.count("patch_size", default=32, most=2**16),
        channels=fields.count("num_channels", default=3, most=2**10),
    )
    if spec.patches == 0 or spec.hidden % spec.heads:
        raise fields.error(
            "patch_size", spec.patch_size, "at most image_size, and heads that divide hidden_size"
        )
    return spec


def vision_phase() -> Phase:
    """Return the pass over the images; with no images its operations have no rows and nothing is read."""
    return Phase("vision", ("vision", "connector"), ONE, ONE, ONE)


def vision_component(spec: VisionSpec, root: str, stored: str) -> Component:
    """Return the patch convolution, the positions, the encoder layers and the norm after them."""
    rows, width = spec.rows, spec.hidden
    patch = conv("", spec.channels, width, spec.patch_size, rows=rows)
    table = positions("", spec.patches, width, rows=rows)
    encoder = restored(block(_encoder_layer(spec)), stored)

    def alone(name: str, part: Part) -> Layer:
        return Layer(f"{root}.{name}", 0, restored(block([part]), stored))

    return Component(
        "vision",
        (
            alone("embeddings.patch_embedding", patch),
            alone("embeddings.position_embedding", table),
            *(Layer(f"{root}.encoder.layers.{i}", i, encoder) for i in range(spec.layers)),
            alone("post_layernorm", norm("", width, rows=rows, bias=True)),
        ),
    )


def _encoder_layer(spec: VisionSpec) -> list[Part]:
    """Return the parts of a pre-norm encoder layer: attention within an image, a plain feed-forward."""
    rows, width, head_dim = spec.rows, spec.hidden, spec.hidden // spec.heads
    within = Attention(
        spec.heads, spec.heads, head_dim, head_dim, Extent.parse(str(spec.patches)), causal=False
    )
    projections = [
        linear(f"self_attn.{n}_proj", width, width, "attention", rows=rows, bias=True)
        for n in ("q", "k", "v", "out")
    ]
    return [
        norm("layer_norm1", width, rows=rows, bias=True),
        *projections[:3],
        attention("self_attn", within, rows=rows),
        projections[3],
        norm("layer_norm2", width, rows=rows, bias=True),
        linear("mlp.fc1", width, spec.intermediate, "mlp", rows=rows, bias=True),
        elementwise("mlp.activation_fn", spec.intermediate, rows=rows),
        linear("mlp.fc2", spec.intermediate, width, "mlp", rows=rows, bias=True),
    ]


def connector_component(spec: VisionSpec, factor: int, hidden: int, root: str, stored: str) -> Component:
    """Return the connector: `factor` x `factor` patches side by side, projected to the decoder's width."""
    rows = Extent.parse(f"{spec.patches // factor**2}*batch*images")
    part = linear("", spec.hidden * factor**2, hidden, "projection", rows=rows)
    name = f"{root}.modality_projection.proj"
    return Component("connector", (Layer(name, 0, restored(block([part]), stored)),))
