"""A conversation's cache in a file: saved whole or not at all, and loaded only for the model that made it."""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tierline.errors import InputError
from tierline.models.safetensors_header import PREFIX_BYTES
from tierline.models.stored import StoredTensor
from tierline.run.kv.layer import RowShape, StoredLayer
from tierline.run.source import Source

_KIND, _VERSION = "tierline_session", "1"
_SAMPLES, _SAMPLE_BYTES = 16, 4096
_DTYPE_NAMES = {torch.int64: "I64", torch.uint8: "U8", torch.float32: "F32", torch.float16: "F16",
                torch.bfloat16: "BF16"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saved:
    """What was said so far: the turns, and the token ids whose keys and values the cache holds."""

    turns: tuple[Mapping[str, Any], ...]
    token_ids: tuple[int, ...]


def fingerprint(source: Source) -> str:
    """Return what tells this model from any other: its tensors' names and forms, and some of their bytes."""
    tensors = sorted(source.checkpoint.tensors.values(), key=lambda t: t.name)
    digest = hashlib.sha256(
        json.dumps([(t.name, t.format, t.shape, t.panel_crc32.hex()) for t in tensors]).encode()
    )
    for tensor in tensors[:: max(1, len(tensors) // _SAMPLES)]:
        digest.update(_sample(tensor))
    return digest.hexdigest()


def save_session(path: Path, cache: Cache, saved: Saved, *, model: str, kv: str) -> None:
    """Write the cache and what it holds to `path`, replacing what was there only once all is on disk.

    `model` is the fingerprint, `kv` how the cache is kept. Raises InputError where that cannot be written, or
    the cache has a layer of a kind that cannot be saved.
    """
    tensors = dict(_tensors(cache))
    tensors["token_ids"] = torch.tensor(saved.token_ids, dtype=torch.int64)
    metadata = {
        _KIND: _VERSION,
        "model": model,
        "kv": kv,
        "turns": json.dumps([dict(turn) for turn in saved.turns]),
        "layers": json.dumps([_layer_notes(layer) for layer in cache.layers]),
        "crc32": json.dumps({name: _crc32(tensor) for name, tensor in tensors.items()}),
    }
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(_header(tensors, metadata))
                for tensor in tensors.values():
                    file.write(_bytes_of(tensor))
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(
            f"{path}: the session cannot be saved: {error.strerror}; what was there stays"
        ) from error


def load_session(path: Path, cache: Cache, *, model: str, kv: str, dtype: torch.dtype) -> Saved:
    """Fill the empty `cache`, of states in `dtype`, from `path` and return what it holds.

    Raises InputError where the file is damaged, or was made by another model, or with the cache kept
    otherwise.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            _refuse_foreign(path, notes, model, kv)
            crcs, layers = json.loads(notes["crc32"]), json.loads(notes["layers"])
            if len(layers) != len(cache.layers):
                raise InputError(f"{path}: holds {len(layers)} layers, the model has {len(cache.layers)}")
            tensors = _Checked(path, file, crcs)
            token_ids = tensors["token_ids"].tolist()
            for index, (layer, note) in enumerate(zip(cache.layers, layers, strict=True)):
                _fill(layer, f"layers.{index}", note, tensors, dtype)
            turns = json.loads(notes["turns"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: is not a whole session file: {error}; start anew without it") from error
    if cache.get_seq_length() != len(token_ids):
        raise InputError(f"{path}: holds {len(token_ids):,} tokens but a cache of {cache.get_seq_length():,}")
    return Saved(tuple(turns), tuple(token_ids))


class _Checked:
    """Tensors of a session file, each held against its checksum as it is read."""

    def __init__(self, path: Path, file: Any, crcs: Mapping[str, int]) -> None:  # noqa: ANN401 - has no type
        self._path, self._file, self._crcs = path, file, crcs

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        if _crc32(tensor) != self._crcs[name]:
            raise InputError(f"{self._path}: {name} is damaged: its checksum differs; start anew without it")
        return tensor


def _refuse_foreign(path: Path, notes: Mapping[str, str], model: str, kv: str) -> None:
    if notes.get(_KIND) != _VERSION:
        raise InputError(f"{path}: is not a session of this version of tierline; give another --session")
    if notes.get("model") != model:
        raise InputError(
            f"{path}: was made by another model, whose keys and values mean nothing to this one; "
            "give another --session, or the model that made it"
        )
    if notes.get("kv") != kv:
        raise InputError(
            f"{path}: its cache is kept as {notes.get('kv')}, not as {kv}: run it as it was saved"
        )


def _sample(tensor: StoredTensor) -> bytes:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset + tensor.footprint_bytes // 2)
        return file.read(min(_SAMPLE_BYTES, tensor.footprint_bytes // 2))


def _tensors(cache: Cache) -> Iterator[tuple[str, torch.Tensor]]:
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, StoredLayer):
            rows = layer.exported_rows()
            if rows is not None:
                yield f"layers.{index}.rows", rows
        elif not isinstance(layer, DynamicLayer):
            raise InputError(
                f"--session: layer {index} keeps a {type(layer).__name__}, which cannot be saved; "
                "leave --session out"
            )
        elif layer.keys is not None and layer.values is not None:
            yield f"layers.{index}.keys", layer.keys
            yield f"layers.{index}.values", layer.values


def _layer_notes(layer: object) -> dict[str, object]:
    if isinstance(layer, StoredLayer) and layer.shape is not None:
        shape = layer.shape
        return {"rows": [shape.batch, shape.heads, shape.key_dim, shape.value_dim]}
    if isinstance(layer, DynamicSlidingWindowLayer):
        return {"tokens": layer.cumulative_length, "held": layer.keys is not None}
    return {"held": getattr(layer, "keys", None) is not None}


def _fill(layer: object, name: str, note: Mapping[str, Any], tensors: _Checked, dtype: torch.dtype) -> None:
    if isinstance(layer, StoredLayer):
        if "rows" in note:
            layer.restore(tensors[f"{name}.rows"], RowShape(*map(int, note["rows"])), dtype)
        return
    if not isinstance(layer, DynamicLayer) or not note["held"]:
        return
    layer.update(tensors[f"{name}.keys"], tensors[f"{name}.values"])
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = int(note["tokens"])


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors header; written here because the library's writer holds a copy of every tensor."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        dtype = _DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(PREFIX_BYTES, "little") + text


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _crc32(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes_of(tensor))
