"""Build transformers' own module classes around placeholders: every shape and dtype, no weights."""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from tierline.errors import InputError
from tierline.probe.build import written_floats


def build_model(config: Mapping[str, object], dtype: torch.dtype) -> PreTrainedModel:
    """Return the causal language model that `config` describes, in evaluation mode, holding no weights.

    Every parameter is a placeholder of the right shape and dtype in one element of NaN, so that a weight
    that was never handed over shows in the output. Buffers that the code computes (rotary frequencies) are
    real. Saving, moving and resizing are refused: they would write or need weights that are not there.
    """
    return _placeheld(_on_meta(_config(config), dtype), dtype)


def _config(config: Mapping[str, object]) -> PreTrainedConfig:
    fields = {key: value for key, value in config.items() if key != "quantization_config"}  # of the file
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str):
        raise InputError("the model's config names no model_type, so no class can be chosen to run it")
    try:
        return AutoConfig.for_model(model_type, **written_floats(fields))
    except Exception as error:  # whatever third-party code meets in a stranger's config
        raise InputError(
            f"transformers cannot use this config of model_type {model_type!r}: {error}"
        ) from error


def _on_meta(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = _auto_class(config).from_config(
                config, dtype=dtype, trust_remote_code=False
            )
    except (ValueError, KeyError) as error:
        raise InputError(f"transformers cannot build {config.model_type!r} as a decoder: {error}") from error
    model.eval()
    return model


def _auto_class(config: PreTrainedConfig) -> Any:  # noqa: ANN401 - classes of factories have no common type
    """Return what builds a model of `config` with a head of language, and with eyes if it has them."""
    sees = hasattr(config, "vision_config") and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _placeheld(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, placeholder(parameter.shape, dtype))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(
                name,
                torch.empty_like(buffer, device="cpu"),
                name not in module._non_persistent_buffers_set,  # noqa: SLF001
            )
    # Parameters are marked as initialised above, so that this computes the buffers and nothing else.
    model.init_weights()
    for name in ("save_pretrained", "to", "cuda", "half", "float", "bfloat16", "resize_token_embeddings"):
        setattr(model, name, _refuse(name))
    return model


def placeholder(shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter of `shape` that takes one element of memory and makes NaN of whatever uses it."""
    one = torch.full((1,) * len(shape), torch.nan, dtype=dtype)
    parameter = nn.Parameter(one.expand(shape), requires_grad=False)
    parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # noqa: SLF001 - transformers' own mark
    return parameter


def _refuse(name: str) -> object:
    def refused(*_: object, **__: object) -> NoReturn:
        raise InputError(
            f".{name}() is not possible on a streamed model: its weights stay on disk. "
            "Load the checkpoint with transformers for that"
        )

    return refused
