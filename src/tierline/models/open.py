"""Find the model that a user names: in the catalogue, or in a file or directory."""

import difflib
from pathlib import Path

from tierline.errors import InputError
from tierline.models.catalogue import catalogue_model, catalogue_names
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields, read_json


def open_model(text: str) -> Model:
    """Return the model that `text` names: a catalogue name, a `config.json` or a model directory.

    A catalogue name wins over a file of the same name; write `./NAME` for the file. Raises InputError if
    there is no such model or the file is not what it has to be.
    """
    if text in catalogue_names():
        return catalogue_model(text)
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        near = difflib.get_close_matches(text, catalogue_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`tierline models` lists the catalogue"
        raise InputError(f"no model {text[:120]!r} in the catalogue, and no such file or directory; {hint}")
    return model_from_config(path.resolve().parent.name, Fields(read_json(path), str(path)), str(path))
