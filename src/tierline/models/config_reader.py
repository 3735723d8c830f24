"""A parsed `config.json` to a model, whichever family it is of."""

from tierline.models.action import smolvla_model
from tierline.models.compose import smolvlm_model
from tierline.models.decoder import decoder_model
from tierline.models.description import Model
from tierline.models.families import FAMILIES, decoder_config
from tierline.models.fields import Fields

VISION_LANGUAGE = ("smolvlm", "idefics3")


def reads(fields: Fields) -> bool:
    """Return whether there is a native reader for this `model_type`."""
    return fields.text("model_type") in (*VISION_LANGUAGE, *FAMILIES)


def model_from_config(name: str, fields: Fields, source: str) -> Model:
    """Return the model that a parsed `config.json` describes, without torch.

    Raises InputError for an architecture without a native reader, naming the nearest known ones, and for
    fields that are missing or out of range.
    """
    if fields.text("model_type") in VISION_LANGUAGE:
        return smolvlm_model(name, fields, source)
    if fields.text("model_type") == "smolvla":
        return smolvla_model(name, fields, source)
    return decoder_model(name, decoder_config(fields), source)
