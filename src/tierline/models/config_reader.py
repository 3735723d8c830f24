"""A parsed `config.json` to a model, whichever family it is of."""

from tierline.models.compose import smolvlm_model
from tierline.models.decoder import decoder_model
from tierline.models.description import Model
from tierline.models.families import decoder_config
from tierline.models.fields import Fields


def model_from_config(name: str, fields: Fields, source: str) -> Model:
    """Return the model that a parsed `config.json` describes, without torch.

    Raises InputError for an architecture without a native reader, naming the nearest known ones, and for
    fields that are missing or out of range.
    """
    if fields.text("model_type") in ("smolvlm", "idefics3"):
        return smolvlm_model(name, fields, source)
    return decoder_model(name, decoder_config(fields), source)
