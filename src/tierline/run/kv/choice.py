"""Where the cache of a run is kept and how narrow, and what that takes; needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tierline.cost.kv import token_bytes
from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.models.description import Attention, Model
from tierline.run.kv.rows import block_tokens, sequence_bytes, whole_blocks

INT8_FORMAT = "int8:channel"  # a scale per head and token: the head is the row
_NAMES = {"int8": INT8_FORMAT, INT8_FORMAT: INT8_FORMAT}


@dataclass(frozen=True, slots=True)
class KvChoice:
    """How keys and values are kept: in which `format` (None: as computed), and `folder` (None: in memory).

    Only layers that attend to everything are kept so; a sliding window is small and stays as it is.
    """

    format: str | None = None
    folder: Path | None = None

    @property
    def is_default(self) -> bool:
        """Whether transformers' own cache does it."""
        return self.format is None and self.folder is None

    def held_bytes(self, model: Model, *, batch: int, tokens: int, computed: str) -> int:
        """Return the most bytes of memory that the cache of `batch` sequences of `tokens` takes.

        `computed` is the format that is computed in. On disk these are two layers' buffers and each layer's
        last rows, which make no whole sector yet; narrower than computed, one layer's states besides.
        """
        layers = tuple(_layers(model))
        as_is = [batch * tokens * token_bytes(a, parse_format(computed)) for a in layers]
        if self.is_default:
            return sum(as_is)
        kept = [size for a, size in zip(layers, as_is, strict=True) if a.window is not None]
        stored = [self._row_bytes(a, batch, computed) for a in layers if a.window is None]
        if not stored:
            return sum(kept)
        expanded = max(size for a, size in zip(layers, as_is, strict=True) if a.window is None)
        working = expanded if self.format is not None else 0
        if self.folder is None:
            return sum(kept) + tokens * sum(stored) + working
        buffers = 2 * max(whole_blocks(tokens, row) * row for row in stored)
        return sum(kept) + buffers + sum(block_tokens(row) * row for row in stored) + working

    def read_bytes(self, model: Model, *, batch: int, tokens: int, computed: str) -> int:
        """Return what a pass with `tokens` already in the cache reads of it from disk: whole blocks."""
        if self.folder is None:
            return 0
        rows = (self._row_bytes(a, batch, computed) for a in _layers(model) if a.window is None)
        return sum(tokens // block_tokens(row) * block_tokens(row) * row for row in rows)

    def disk_bytes(self, model: Model, *, batch: int, tokens: int, computed: str) -> int:
        """Return what the file takes on disk."""
        if self.folder is None:
            return 0
        rows = (self._row_bytes(a, batch, computed) for a in _layers(model) if a.window is None)
        return sum(whole_blocks(tokens, row) * row for row in rows)

    def _row_bytes(self, attention: Attention, batch: int, computed: str) -> int:
        kept = parse_format(self.format or computed)
        key_bytes, value_bytes = (
            kept.footprint_bytes((1, d)) for d in (attention.head_dim, attention.value_dim)
        )
        return batch * sequence_bytes(attention.kv_heads, key_bytes, value_bytes)


def kv_format(text: str | None) -> str | None:
    """Return the format that `--kv` names for a run, None for as computed.

    Raises InputError for one that no code here can write.
    """
    if text is None:
        return None
    if text not in _NAMES:
        raise InputError(
            f"--kv {text}: a run keeps keys and values as computed, or as int8 with a scale per head and "
            "token; leave --kv out, or give --kv int8"
        )
    return _NAMES[text]


def _layers(model: Model) -> Iterator[Attention]:
    for component in model.components:
        for layer in component.layers:
            for operation in layer.block.operations:
                if operation.attention is not None and operation.attention.cache == "append":
                    yield operation.attention
