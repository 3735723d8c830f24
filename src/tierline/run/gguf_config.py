"""The config that transformers needs to build the model in a GGUF file."""

from collections.abc import Mapping

from tierline.errors import InputError
from tierline.models.gguf_model import gguf_fields
from tierline.models.stored import Checkpoint

# Factors by which llama.cpp divides the rotary frequencies (Llama 3's scaling, computed at conversion).
ROTARY_FACTORS = "rope_freqs.weight"
_TOKENS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "padding_token_id",
}


def gguf_config(checkpoint: Checkpoint) -> Mapping[str, object]:
    """Return the `config.json` that the metadata amount to.

    Shapes are those of `gguf_fields`; norms' epsilon, rotary base and special tokens come on top. Raises
    InputError for a scaling of rotary positions that is not expressed here, rather than run without it.
    """
    metadata = checkpoint.metadata
    architecture = metadata["general.architecture"]
    config = dict(gguf_fields(checkpoint).values)
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise InputError(
            f"{checkpoint.path}: rotary positions are scaled by {str(scaling)[:40]!r}, which cannot "
            "be run from GGUF yet; run the safetensors of this model"
        )
    epsilon = metadata.get(f"{architecture}.attention.layer_norm_rms_epsilon")
    if epsilon is not None:
        config["rms_norm_eps"] = epsilon
    theta = metadata.get(f"{architecture}.rope.freq_base", 10000.0)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    for name, key in _TOKENS.items():
        config[name] = metadata.get(f"tokenizer.ggml.{key}")
    return config
