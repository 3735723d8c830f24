"""Open a checkpoint by its header, whatever its file format."""

from pathlib import Path

from tierline.errors import InputError
from tierline.models.gguf_header import read_gguf
from tierline.models.safetensors_header import INDEX_NAME, read_safetensors, read_safetensors_index
from tierline.models.stored import Checkpoint

_SINGLE_NAME = "model.safetensors"


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
    """Return the checkpoint in a model directory, None if there is none.

    An index wins over a single file; several files without an index raise InputError.
    """
    for name in (INDEX_NAME, _SINGLE_NAME):
        if (directory / name).is_file():
            return directory / name
    for pattern in ("*.safetensors.index.json", "*.safetensors", "*.gguf"):
        found = sorted(directory.glob(pattern))
        if len(found) > 1:
            raise InputError(f"{directory}: holds {len(found)} {pattern} files: name the one that is meant")
        if found:
            return found[0]
    return None
