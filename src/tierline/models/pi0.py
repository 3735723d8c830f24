"""Pi-zero: PaliGemma reads images and an instruction, a narrower Gemma beside it denoises actions.

The layers of the action expert attend to the keys and values that PaliGemma's layers cached and to their
own, over one row for the robot's state and a chunk of actions. Source: transformers 5.23, `models/pi0`.
"""

from dataclasses import replace

from tierline.models.action import joint_block, unused
from tierline.models.compose import siglip_spec, vision_component, vision_phase
from tierline.models.decoder import restored, text_component
from tierline.models.decoder_config import DecoderConfig, Names
from tierline.models.description import Block, Component, Layer, Model, Phase
from tierline.models.extent import Extent
from tierline.models.families import decoder_config, stored_format
from tierline.models.fields import Fields
from tierline.models.parts import ROWS, SEQUENCES, Part, block, elementwise, linear, norm

PROMPT_TOKENS = 48  # what the processor pads an instruction to


def pi0_model(name: str, fields: Fields, source: str) -> Model:
    """Return the pi-zero that a `config.json` describes.

    Phases: `vision`, `prefill` (images and the padded instruction through PaliGemma) and `denoise` (the
    expert, `steps` times). The expert's embedding and the result of PaliGemma's last norm are not used.
    """
    vlm, stored = fields.inner("vlm_config"), stored_format(fields)
    vision = siglip_spec(vlm.inner("vision_config"))
    text = _decoder(vlm.inner("text_config"), "model.vlm.language_model", stored)
    expert = _decoder(fields.inner("dit_config"), "model.dit", stored)
    chunk = fields.count("chunk_size", default=50)
    prefix = Extent.parse(f"{vision.patches}*images + {PROMPT_TOKENS}")
    image_rows = Extent.parse(f"{vision.patches}*batch*images")
    projector = linear("", vision.hidden, text.hidden, "projection", rows=image_rows, bias=True)
    *layers, last = text_component(text).layers
    suffix = Extent.parse(str(chunk + 1))
    return Model(
        name=name,
        family="pi0",
        components=(
            vision_component(vision, "model.vlm.vision_tower", stored),
            Component("connector", (_alone("model.vlm.multi_modal_projector.linear", [projector], stored),)),
            Component("text", (*layers, Layer(last.name, 0, Block(last.block.tensors, ())))),
            _expert(expert, fields, prefix, chunk),
        ),
        phases=(
            vision_phase(),
            Phase("prefill", ("text",), Extent.parse("1"), prefix, prefix),
            Phase("denoise", ("expert",), Extent.parse("steps"), suffix, prefix),
        ),
        source=source,
        image_tokens=vision.patches,
        default_steps=fields.count("num_inference_steps", default=10),
        notes=("prompt tokens follow from the images: the instruction is padded to a fixed length",),
    )


def _decoder(fields: Fields, root: str, stored: str) -> DecoderConfig:
    """Return a Gemma whose tokens attend in both directions."""
    config = decoder_config(fields)
    specs = (replace(s, attention=replace(s.attention, causal=False)) for s in config.layers)
    return replace(config, layers=tuple(specs), names=replace(Names(), root=root), stored=stored)


def _expert(config: DecoderConfig, fields: Fields, prefix: Extent, chunk: int) -> Component:
    """Return the action expert in execution order: state, actions and time in, its layers, actions out."""
    hidden, stored, root = config.hidden, config.stored, "embed_action_time"
    actions = Extent.parse(f"{chunk}*batch")
    state_dim = fields.count("max_state_dim", default=32)
    action_dim = fields.count("max_action_dim", default=32)
    embedding, *layers, last = text_component(config).layers
    joint = joint_block(config, prefix, chunk + 1)

    def project(name: str, width: int, out: int, rows: Extent) -> Layer:
        parts = [linear("", width, out, "projection", rows=rows, bias=True)]
        if name.endswith("mlp_in"):
            parts.append(elementwise("silu", out, rows=rows))
        return _alone(name, parts, stored)

    return Component(
        "expert",
        (
            *unused(Component("", (embedding,))).layers,
            project(f"{root}.state_proj", state_dim, hidden, SEQUENCES),
            project(f"{root}.action_in_proj", action_dim, hidden, actions),
            project(f"{root}.action_time_mlp_in", 2 * hidden, hidden, actions),
            project(f"{root}.action_time_mlp_out", hidden, hidden, actions),
            *(Layer(x.name, x.index, joint) for x in layers),
            _alone(last.name, [norm("", hidden, rows=ROWS)], stored),
            project("action_out_proj", hidden, action_dim, actions),
        ),
    )


def _alone(name: str, parts: list[Part], stored: str) -> Layer:
    return Layer(name, 0, restored(block(parts), stored))
