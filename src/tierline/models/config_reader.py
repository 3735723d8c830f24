"""A parsed `config.json` to a model, whichever family it is of."""

from collections.abc import Callable, Mapping

from tierline.errors import UnknownArchitectureError
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


# How transformers ends the name of a model that has a language model's head, as all that are read here.
_HEADED = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def reads(fields: Fields) -> bool:
    """Return whether there is a native reader for this `model_type` and what `architectures` makes of it."""
    return _known(fields) and not _other_head(fields)


def _known(fields: Fields) -> bool:
    return fields.text("model_type") in (*COMPOSED, *FAMILIES)


def _other_head(fields: Fields) -> str:
    """Return the class that `architectures` names if it has no head or another one, else an empty text."""
    named = fields.values.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return "" if not isinstance(first, str) or first.endswith(_HEADED) else first


def model_from_config(name: str, fields: Fields, source: str) -> Model:
    """Return the model that a parsed `config.json` describes, without torch.

    Raises UnknownArchitectureError where there is no native reader, naming the nearest known ones, or where
    `architectures` names a class without a language model's head, and InputError for fields that are missing
    or out of range.
    """
    family, other = fields.text("model_type"), _other_head(fields)
    if other and _known(fields):
        raise UnknownArchitectureError(
            f"{fields.where}: no native reader for {other[:60]!r}, only for {family} with a language model's "
            f"head; `pip install tierline[run]` lets any model of transformers be probed"
        )
    composed = COMPOSED.get(family)
    return composed(name, fields, source) if composed else decoder_model(name, decoder_config(fields), source)
