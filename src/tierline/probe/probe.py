"""Any model that transformers can build from a config, as the description that the native readers give."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import transformers
from transformers import PreTrainedModel

from tierline.errors import InputError
from tierline.models.description import Experts, Model, Operation
from tierline.models.families import DTYPES
from tierline.probe.build import build
from tierline.probe.describe import components, image_tokens, phases, places
from tierline.probe.merge import merge
from tierline.probe.passes import GRID, SETS, Pass, groups, kind_of


def probe_model(config: Mapping[str, object], name: str) -> Model:
    """Return the description of the model that a parsed `config.json` builds, observed on the meta device.

    Every tensor is one of the module's `state_dict()`, every operation one that transformers' own code ran
    in a prefill and a decode step (and an encoder or vision pass), its rows an extent that two sets of
    primes bear out. What cannot be observed is in `unknown`, and its phases are missing. No memory is
    allocated for weights, and nothing that the config names is downloaded or run. Raises InputError if
    transformers has no such architecture, a count is over the caps, or the model cannot be built.
    """
    model = build(config)
    passes, unknown = _passes(model)
    merged = merge(passes)
    unknown += merged.unknown
    where = places(model, kind_of(model), passes)
    operations = tuple(_routed(operation, model) for operation in merged.operations)
    parts = components(model, where, operations, _stored(config))
    described = Model(
        name=name,
        family=str(config["model_type"]),
        components=parts,
        phases=() if merged.unknown else phases(passes, where, parts),
        source=f"probed with transformers {transformers.__version__}, torch {torch.__version__}",
        max_context=_max_context(model),
        unknown=unknown,
        notes=_notes(model, passes, config),
    )
    return replace(described, image_tokens=image_tokens(described))


def _passes(model: PreTrainedModel) -> tuple[tuple[Pass, ...], tuple[str, ...]]:
    """Run every part of the model at both sets of sizes; return the passes, and which parts could not run."""
    passes: list[Pass] = []
    unknown = []
    try:
        parts = groups(model)
    except InputError as error:
        return (), (str(error),)
    for part, run in parts.items():
        try:
            passes += [one for sizes in SETS for one in run(model, sizes)]
        except Exception as error:  # noqa: BLE001 - third-party model code; what it met is what is reported
            said = " ".join(str(error).split())[:200]
            unknown.append(f"{part}: cannot be observed on the meta device: {said}")
    return tuple(passes), tuple(unknown)


def _routed(operation: Operation, model: PreTrainedModel) -> Operation:
    """Return experts that are all computed (Llama 4) as routed, which is what the model means."""
    experts = operation.experts
    if experts is None or experts.per_token != experts.count:
        return operation
    routed = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    return replace(operation, experts=Experts(experts.count, routed)) if routed else operation


def _stored(config: Mapping[str, object]) -> str:
    """Return the number format that `dtype` (once `torch_dtype`) names, else that of the text part."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, Mapping) else {}):
        for field in ("dtype", "torch_dtype"):
            named = str(fields.get(field) or "").removeprefix("torch.")
            if named in DTYPES:
                return DTYPES[named]
    return "fp32"


def _max_context(model: PreTrainedModel) -> int | None:
    text = model.config.get_text_config(decoder=True)
    for field in ("max_position_embeddings", "max_target_positions", "n_positions"):
        value = getattr(text, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _notes(model: PreTrainedModel, passes: Sequence[Pass], config: Mapping[str, object]) -> tuple[str, ...]:
    notes = []
    quantised = config.get("quantization_config")
    if isinstance(quantised, Mapping):
        method = str(quantised.get("quant_method", "an unnamed method"))[:40]
        notes.append(
            f"the checkpoint is quantised by {method}: its stored formats are known from its header only"
        )
    if any(s.experts and s.experts.count == s.experts.per_token for one in passes for s in one.seen):
        notes.append("transformers computes every expert for every row and discards what routing leaves out")
    if hasattr(model.config, "vision_config") and hasattr(model.config.vision_config, "spatial_merge_size"):
        notes.append(f"images have no fixed size here: rows are those of {GRID} x {GRID} patches")
    return tuple(notes)
