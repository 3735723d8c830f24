"""Open a checkpoint by its header, whatever its file format."""

from collections.abc import Collection
from pathlib import Path

from tierline.errors import InputError
from tierline.models.gguf_header import read_gguf
from tierline.models.safetensors_header import INDEX_NAME, read_safetensors, read_safetensors_index
from tierline.models.stored import Checkpoint

SINGLE_NAME = "model.safetensors"


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the header of a .safetensors file, its index, a .gguf file, or a directory that holds one.

    Nothing but headers is read. Raises InputError if there is no checkpoint or its header cannot be true.
    """
    found = find_checkpoint(path) if path.is_dir() else path
    if found is None:
        raise InputError(f"{path}: holds no {INDEX_NAME}, no .safetensors file and no .gguf file")
    if found.suffix == ".gguf":
        return read_gguf(found)
    if found.suffix == ".json":
        return read_safetensors_index(found)
    if found.suffix == ".safetensors":
        return read_safetensors(found)
    raise InputError(f"{path}: want a .safetensors file, its .index.json, a .gguf file or a directory")


def find_checkpoint(directory: Path) -> Path | None:
    """Return the checkpoint in a model directory, None if there is none; raise InputError as below."""
    name = choose_checkpoint([f.name for f in directory.iterdir() if f.is_file()], str(directory))
    return None if name is None else directory / name


def choose_checkpoint(names: Collection[str], where: str) -> str | None:
    """Return which of the file `names` is the checkpoint, None if none is.

    An index wins over a single file; several files without an index raise InputError naming `where`.
    """
    for name in (INDEX_NAME, SINGLE_NAME):
        if name in names:
            return name
    for suffix in (".safetensors.index.json", ".safetensors", ".gguf"):
        found = sorted(name for name in names if name.endswith(suffix))
        if len(found) > 1:
            raise InputError(f"{where}: holds {len(found)} *{suffix} files: name the one that is meant")
        if found:
            return found[0]
    return None
