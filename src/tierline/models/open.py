"""Find the model that a user names: in the catalogue, in a file or directory, or on the hub."""

import difflib
from dataclasses import replace
from pathlib import Path

from tierline.errors import InputError
from tierline.models.catalogue import catalogue_model, catalogue_names
from tierline.models.checkpoint import SINGLE_NAME, find_checkpoint, open_checkpoint
from tierline.models.config_reader import ConfigReader, model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields, read_json
from tierline.models.from_checkpoint import model_from_checkpoint
from tierline.models.hub import CONFIG_NAME, is_hub_id, open_repository


def open_model(text: str, read: ConfigReader = model_from_config) -> Model:
    """Return the model that `text` names.

    That is a catalogue name, a `config.json`, a model directory, a .safetensors file or index, a .gguf
    file, or a hub id (`owner/name`); only headers are read. A catalogue name wins over a file of the same
    name (write `./NAME` for the file), a path that exists over a hub id. `read` describes the model of a
    `config.json`. Raises InputError if there is no such model or the file is not what it has to be.
    """
    if text in catalogue_names():
        return catalogue_model(text)
    path = Path(text)
    if path.is_dir():
        return _open_directory(path, read)
    if path.is_file():
        return _open_file(path, read)
    if is_hub_id(text):
        return _open_on_hub(text, read)
    near = difflib.get_close_matches(text, catalogue_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "`tierline models` lists the catalogue"
    raise InputError(f"no model {text[:120]!r} in the catalogue, and no such file or directory; {hint}")


def _open_directory(directory: Path, read: ConfigReader) -> Model:
    """Return the model of a directory: its checkpoint if it has one, else its configuration alone."""
    checkpoint, config = find_checkpoint(directory), directory / CONFIG_NAME
    if checkpoint is not None:
        return _open_file(checkpoint, read)
    if not config.is_file():
        raise InputError(f"{directory}: holds neither {CONFIG_NAME} nor a .safetensors or .gguf file")
    return _open_file(config, read)


def _open_file(path: Path, read: ConfigReader) -> Model:
    """Return the model of a configuration, or of a checkpoint with the configuration beside it if any."""
    if path.suffix == ".json" and not path.name.endswith(".safetensors.index.json"):
        return read(_name(path), _config(path), str(path))
    config = path.parent / CONFIG_NAME
    fields = _config(config) if path.suffix != ".gguf" and config.is_file() else None
    alone = fields is None and path.suffix in (".gguf", ".safetensors") and path.name != SINGLE_NAME
    return model_from_checkpoint(path.stem if alone else _name(path), open_checkpoint(path), fields, read)


def _open_on_hub(text: str, read: ConfigReader) -> Model:
    """Return the model of a repository on the hub, of its checkpoint's headers if it has one."""
    repository = open_repository(text)
    config, checkpoint = repository.config(), repository.checkpoint()
    name = text.rpartition("/")[2]
    if checkpoint is not None:
        model = model_from_checkpoint(name, checkpoint, config, read)
    elif config is not None:
        model = read(name, config, text)
    else:
        raise InputError(
            f"{text}: the repository holds neither {CONFIG_NAME} nor a .safetensors file at its top; of a "
            f"GGUF or other repository, fetch the file that is meant and name that"
        )
    notes = (*model.notes, repository.note) if repository.note else model.notes
    return replace(model, source=f"{text} on the hub at commit {repository.commit}", notes=notes)


def _config(path: Path) -> Fields:
    return Fields(read_json(path), str(path))


def _name(path: Path) -> str:
    """Return the name of the directory that a model's file is in."""
    return path.resolve().parent.name
