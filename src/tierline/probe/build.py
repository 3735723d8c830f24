"""A config as a dict -> a transformers model on the meta device, where a tensor takes no memory."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tierline.errors import InputError, TierlineError, UnknownArchitectureError
from tierline.probe.limits import check_config, watched
from tierline.probe.seams import installed, quiet, use_seams

# Chosen by what a config's model can do, most specific first; a masked language model is an encoder.
_TASKS = (
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
)
_DROPPED = ("auto_map", "quantization_config", "transformers_version", "_name_or_path")


def build(config: Mapping[str, object]) -> PreTrainedModel:
    """Return the model that a `config.json` describes, on the meta device, in fp32, with our seams in place.

    `architectures` chooses the class if it is one of transformers' own for this config; otherwise the most
    specific task does. No code from the config is run and no memory for weights is allocated. Raises
    InputError if the architecture is unknown, a count is over the caps of `limits`, or it cannot be built.
    """
    check_config(config)
    with quiet(), watched():
        filled = _filled(config)
        maker = _model_class(filled, config.get("architectures"))
        try:
            with torch.device("meta"):
                model: PreTrainedModel = maker(filled)
        except TierlineError:
            raise
        except Exception as error:  # whatever third-party code meets in a stranger's config
            raise InputError(f"{maker.__name__} cannot be built from this config: {_said(error)}") from error
        model.train(mode=False)
        with installed():
            use_seams(model)
    return model


def _filled(config: Mapping[str, object]) -> PretrainedConfig:
    """Return the config class of `model_type` with what `config` says; raise InputError if unknown."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(name)[:80], CONFIG_MAPPING, n=3, cutoff=0.5)
        nearest = f"; the nearest known are {', '.join(near)}" if near else ""
        raise UnknownArchitectureError(
            f"transformers {transformers.__version__} has no architecture {str(name)[:60]!r}{nearest}"
        )
    given = {k: v for k, v in config.items() if k not in _DROPPED and k != "model_type" and k[:1] != "_"}
    given["dtype"] = "float32"  # a cast on meta would hide which parameter was read
    given.pop("torch_dtype", None)
    try:
        filled: PretrainedConfig = AutoConfig.for_model(name, **written_floats(given))
    except Exception as error:  # whatever third-party code meets in a stranger's config
        raise InputError(f"config of {name}: {_said(error)}") from error
    return filled


def written_floats(value: Any) -> Any:  # noqa: ANN401
    """Return `value` with infinities as floats: transformers writes them as {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        written = value.get("__float__")
        if len(value) == 1 and written in ("Infinity", "-Infinity", "NaN"):
            return float(written)
        return {key: written_floats(inner) for key, inner in value.items()}
    return [written_floats(inner) for inner in value] if isinstance(value, list) else value


def _model_class(config: PretrainedConfig, architectures: object) -> Any:  # noqa: ANN401
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        named: Any = getattr(transformers, architectures[0], None)
        ours = isinstance(named, type) and issubclass(named, PreTrainedModel)
        if ours and named.config_class is type(config):
            return named
    kind = type(config)
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    for task in () if masked and not config.is_encoder_decoder else _TASKS:
        if kind in task:
            return task[kind]
    if kind not in modeling_auto.MODEL_MAPPING:
        raise InputError(f"transformers has no model for the config {kind.__name__}")
    found = modeling_auto.MODEL_MAPPING[kind]
    return found[0] if isinstance(found, tuple) else found


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
