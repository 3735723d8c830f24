"""Models that were dropped on the page: the bytes of a header in, a description kept in a private folder.

What is kept is Tierline's own description, never the bytes that came. All of it goes when the page's server
ends.
"""

import hashlib
import re
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

from tierline.errors import InputError
from tierline.models.description import Model
from tierline.models.fields import Fields, parse_json
from tierline.models.from_checkpoint import model_from_checkpoint
from tierline.models.gguf_header import read_gguf_start
from tierline.models.safetensors_header import PREFIX_BYTES, RawHeader, header_bytes, read_safetensors
from tierline.models.serialize import model_from_json, model_to_json
from tierline.models.stored import Checkpoint
from tierline.probe.open import read_or_probe
from tierline.units import MIB, format_bytes

UPLOAD = "upload:[0-9a-f]{32}"
MOST_UPLOAD_BYTES = 16 * MIB
MOST_FILE_BYTES = 2**50
MOST_KEPT = 32
MOST_NAME = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._+\-]")
_LARGEST_DESCRIPTION_BYTES = 256 * MIB


class Uploads:
    """The descriptions in one folder; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: OrderedDict[str, Model] = OrderedDict()

    def add(self, name: str, content: bytes, file_bytes: int, config: str | None = None) -> str:
        """Describe the model whose header is `content`, of a file of `file_bytes`; return what it is called.

        `name` is the file's name, of which only the ending is believed. `config` is an uploaded config.json's
        content for a safetensors file. Raises InputError where the header cannot be true.
        """
        if len(content) > MOST_UPLOAD_BYTES:
            raise InputError(f"{format_bytes(len(content))} is more than {format_bytes(MOST_UPLOAD_BYTES)}")
        if not len(content) <= file_bytes <= MOST_FILE_BYTES:
            raise InputError(
                f"a file of {file_bytes:,} bytes cannot hold a header of {len(content):,} bytes, or is "
                f"beyond the {MOST_FILE_BYTES:,} that are believed"
            )
        safe = _UNSAFE.sub("_", name)[-MOST_NAME:] or "unnamed"
        model = _described(Path(safe), content, file_bytes, config)
        digest = hashlib.sha256(content + (config or "").encode() + safe.encode()).hexdigest()[:32]
        made = self._folder / f"{digest}.part"
        made.write_text(model_to_json(model), encoding="utf-8")
        made.replace(self._folder / f"{digest}.json")
        self._forget_old()
        return f"upload:{digest}"

    def model(self, name: str) -> Model:
        """Return the model that `add` called `name`; raise InputError where it is not there any more."""
        if name not in self._read:
            path = self._folder / f"{name.removeprefix('upload:')}.json"
            try:
                text = path.read_text(encoding="utf-8")
            except OSError:
                raise InputError("this file is not here any more: drop it on the page again") from None
            self._read[name] = model_from_json(text)
        self._read.move_to_end(name)
        while len(self._read) > MOST_KEPT:
            self._read.popitem(last=False)
        return self._read[name]

    def _forget_old(self) -> None:
        kept = sorted(self._folder.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for path in kept[:-MOST_KEPT]:
            path.unlink(missing_ok=True)


def _described(path: Path, content: bytes, file_bytes: int, config: str | None) -> Model:
    if path.suffix == ".json":
        fields = Fields(parse_json(content, path.name), path.name)
        return read_or_probe(_config_name(fields), fields, path.name)
    checkpoint = _checkpoint(path, content, file_bytes)
    beside = None if config is None else Fields(parse_json(config.encode(), "config.json"), "config.json")
    return model_from_checkpoint(path.stem, checkpoint, beside, read_or_probe)


def _checkpoint(path: Path, content: bytes, file_bytes: int) -> Checkpoint:
    if path.suffix == ".gguf":
        return read_gguf_start(BytesIO(content), path, file_bytes)
    if path.suffix != ".safetensors":
        raise InputError(f"{path.name}: want a config.json, a .safetensors file or a .gguf file")
    length = header_bytes(content[:PREFIX_BYTES], file_bytes, path.name, MOST_UPLOAD_BYTES)
    header = content[PREFIX_BYTES : PREFIX_BYTES + length]
    if len(header) != length:
        raise InputError(f"{path.name}: {len(header):,} of {length:,} header bytes came")
    return read_safetensors(path, lambda _: RawHeader(header, file_bytes))


def _config_name(fields: Fields) -> str:
    """Return what to call a model that has a configuration and no name: its architecture."""
    return _UNSAFE.sub("_", fields.text("model_type", default="model"))[:MOST_NAME] or "model"
