"""Find the model that a user names: in the catalogue, or in a file or directory."""

import difflib
from pathlib import Path

from tierline.errors import InputError
from tierline.models.catalogue import catalogue_model, catalogue_names
from tierline.models.checkpoint import find_checkpoint, open_checkpoint
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields, read_json
from tierline.models.from_checkpoint import model_from_checkpoint

CONFIG_NAME = "config.json"


def open_model(text: str) -> Model:
    """Return the model that `text` names.

    That is a catalogue name, a `config.json`, a model directory, a .safetensors file or index, or a .gguf
    file; only headers are read. A catalogue name wins over a file of the same name; write `./NAME` for the
    file. Raises InputError if there is no such model or the file is not what it has to be.
    """
    if text in catalogue_names():
        return catalogue_model(text)
    path = Path(text)
    if path.is_dir():
        return _open_directory(path)
    if not path.is_file():
        near = difflib.get_close_matches(text, catalogue_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`tierline models` lists the catalogue"
        raise InputError(f"no model {text[:120]!r} in the catalogue, and no such file or directory; {hint}")
    if path.suffix == ".json" and not path.name.endswith(".safetensors.index.json"):
        return model_from_config(_name(path), _config(path), str(path))
    return _open_checkpoint(path)


def _open_directory(directory: Path) -> Model:
    """Return the model of a directory: its checkpoint if it has one, else its configuration alone."""
    checkpoint, config = find_checkpoint(directory), directory / CONFIG_NAME
    if checkpoint is not None:
        return _open_checkpoint(checkpoint)
    if not config.is_file():
        raise InputError(f"{directory}: holds neither {CONFIG_NAME} nor a .safetensors or .gguf file")
    return model_from_config(_name(config), _config(config), str(config))


def _open_checkpoint(path: Path) -> Model:
    """Return the model of a checkpoint, with the configuration beside it if there is one."""
    config = path.parent / CONFIG_NAME
    fields = _config(config) if path.suffix != ".gguf" and config.is_file() else None
    name = path.stem if path.suffix == ".gguf" else _name(path)
    return model_from_checkpoint(name, open_checkpoint(path), fields)


def _config(path: Path) -> Fields:
    return Fields(read_json(path), str(path))


def _name(path: Path) -> str:
    """Return the name of the directory that a model's file is in."""
    return path.resolve().parent.name
