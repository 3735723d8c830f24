"""A parsed `config.json` to a model, whichever family it is of."""

from collections.abc import Callable, Mapping

from tierline.models.action import smolvla_model
from tierline.models.compose import smolvlm_model
from tierline.models.decoder import decoder_model
from tierline.models.description import Model
from tierline.models.families import FAMILIES, decoder_config
from tierline.models.fields import Fields
from tierline.models.pi0 import pi0_model

# What describes the model of a parsed `config.json`, from its name, the config and where that is from.
ConfigReader = Callable[[str, Fields, str], Model]
# Models that are more than a decoder, by `model_type`.
COMPOSED: Mapping[str, ConfigReader] = {
    "smolvlm": smolvlm_model,
    "idefics3": smolvlm_model,
    "smolvla": smolvla_model,
    "pi0": pi0_model,
}


def reads(fields: Fields) -> bool:
    """Return whether there is a native reader for this `model_type`."""
    return fields.text("model_type") in (*COMPOSED, *FAMILIES)


def model_from_config(name: str, fields: Fields, source: str) -> Model:
    """Return the model that a parsed `config.json` describes, without torch.

    Raises UnknownArchitectureError where there is no native reader, naming the nearest known ones, and
    InputError for fields that are missing or out of range.
    """
    composed = COMPOSED.get(fields.text("model_type"))
    return composed(name, fields, source) if composed else decoder_model(name, decoder_config(fields), source)
