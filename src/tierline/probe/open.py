"""Open any model: by its native reader where there is one, by the probe where [run] is installed."""

from dataclasses import replace
from importlib.util import find_spec

from tierline.errors import UnknownArchitectureError
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields
from tierline.models.open import open_model
from tierline.probe.cache import cached_probe


def open_any_model(text: str) -> Model:
    """Return the model that `text` names, as `open_model` does, of any architecture of transformers.

    An architecture without a native reader is probed if torch and transformers are installed; neither is
    imported where the probe's result is kept from before. Raises InputError as `open_model` does.
    """
    return open_model(text, read_or_probe)


def read_or_probe(name: str, fields: Fields, source: str) -> Model:
    """Return the model of a parsed `config.json`; raise UnknownArchitectureError if nobody knows it."""
    try:
        return model_from_config(name, fields, source)
    except UnknownArchitectureError:
        if find_spec("torch") is None or find_spec("transformers") is None:
            raise
    model = cached_probe(fields.values, name)
    return replace(model, source=f"{source}, {model.source}")
