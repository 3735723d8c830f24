"""One layer of a cache whose rows are kept by a store: as computed or narrower, in memory or on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers.cache_utils import CacheLayerMixin

from tierline.errors import InputError
from tierline.run.kv.codec import Codec
from tierline.run.kv.rows import sequence_bytes


class RowStore(Protocol):
    """Rows of one layer, one per token, in order."""

    @property
    def tokens(self) -> int:
        """How many rows there are."""
        ...

    def extend(self, rows: torch.Tensor) -> torch.Tensor:
        """Append rows `(tokens, row_bytes)` and return all, valid until another layer's store is used."""
        ...

    def truncate(self, tokens: int) -> None:
        """Forget all rows after the first `tokens`."""
        ...


@dataclass(frozen=True, slots=True)
class RowShape:
    """What a row holds: keys and values of every head of every sequence, a sequence's bytes together."""

    batch: int
    heads: int
    key_dim: int
    value_dim: int

    def sequence_bytes(self, codec: Codec) -> int:
        """Return the bytes of one sequence's token, padded."""
        return sequence_bytes(self.heads, codec.width_bytes(self.key_dim), codec.width_bytes(self.value_dim))

    def row_bytes(self, codec: Codec) -> int:
        """Return the bytes of a token of all sequences."""
        return self.batch * self.sequence_bytes(codec)


MakeRows = Callable[[int], RowStore]


class StoredLayer(CacheLayerMixin):
    """Keys and values of one full-attention layer behind transformers' interface of a cache layer.

    `make_rows` is given the bytes of a row once the first states show them. `keys` and `values` stay None:
    the states exist only while their layer computes.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, codec: Codec, make_rows: MakeRows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._codec, self._make_rows = codec, make_rows
        self._rows: RowStore | None = None
        self._shape: RowShape | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Note the shapes of a row from the first states, each `(batch, heads, tokens, dim)`."""
        batch, heads, _, key_dim = key_states.shape
        self._begin(RowShape(batch, heads, key_dim, value_states.shape[-1]), key_states.dtype)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,  # noqa: ARG002 - transformers' signature
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens and return those of all, each `(batch, heads, tokens, dim)`."""
        if self._rows is None or self._shape is None:
            self.lazy_initialization(key_states, value_states)
        assert self._rows is not None  # noqa: S101 - made just above
        return self._decoded(self._rows.extend(self._encoded(key_states, value_states)))

    def get_seq_length(self) -> int:
        """Return the tokens that are held."""
        return 0 if self._rows is None else self._rows.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the keys that a query of this length sees, and their offset."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: room ends where the budget does, which is checked elsewhere."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens."""
        if self._rows is not None and tokens_to_remove < 0:
            self._rows.truncate(max(0, self._rows.tokens + tokens_to_remove))

    def reset(self) -> None:
        """Forget all tokens."""
        if self._rows is not None:
            self._rows.truncate(0)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Give every beam the rows of the beam that it goes on from."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the sequences `indices`, as many as there were; raises InputError for another number."""
        if self._rows is None or self._shape is None or not self._rows.tokens:
            return
        if len(indices) != self._shape.batch:
            raise InputError(
                f"a cache kept with --kv or --kv-offload holds {self._shape.batch} sequences and cannot "
                f"become one of {len(indices)}: generate without contrastive search"
            )
        rows = self._all_rows().unflatten(1, (self._shape.batch, -1))
        chosen = rows.index_select(1, indices).flatten(1)
        self._rows.truncate(0)
        self._rows.extend(chosen)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refuse: a row's shape is fixed once it is stored."""
        if self._rows is not None and self._rows.tokens and repeats != 1:
            raise InputError("a cache kept with --kv or --kv-offload cannot be repeated once it is filled")

    @torch.inference_mode()
    def exported_rows(self) -> torch.Tensor | None:
        """Return a copy of all rows, `(tokens, row_bytes)`; None where nothing came yet."""
        return None if self._rows is None else self._all_rows().clone()

    @property
    def shape(self) -> RowShape | None:
        """What a row holds; None before the first states."""
        return self._shape

    @torch.inference_mode()
    def restore(self, rows: torch.Tensor, shape: RowShape, dtype: torch.dtype) -> None:
        """Fill the empty layer with `rows` that `exported_rows` gave, of states in `dtype`."""
        self._begin(shape, dtype)
        assert self._rows is not None  # noqa: S101 - just begun
        self._rows.extend(rows)

    def _begin(self, shape: RowShape, dtype: torch.dtype) -> None:
        self._shape = shape
        self._rows = self._make_rows(shape.row_bytes(self._codec))
        self.dtype, self.device = dtype, torch.device("cpu")
        self.is_initialized = True

    def _all_rows(self) -> torch.Tensor:
        assert self._rows is not None and self._shape is not None  # noqa: S101, PT018 - callers looked
        none = torch.empty((0, self._shape.row_bytes(self._codec)), dtype=torch.uint8)
        return self._rows.extend(none)

    def _encoded(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return rows `(tokens, row_bytes)` of states `(batch, heads, tokens, dim)`."""
        assert self._shape is not None  # noqa: S101 - set with the first states
        parts = [self._codec.encode(s.permute(2, 0, 1, 3)).flatten(2) for s in (keys, values)]
        width = self._shape.sequence_bytes(self._codec)
        padding = width - sum(part.shape[2] for part in parts)
        if padding:
            parts.append(torch.zeros((*parts[0].shape[:2], padding), dtype=torch.uint8))
        return torch.cat(parts, dim=2).flatten(1)

    def _decoded(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._shape is not None  # noqa: S101 - set with the first states
        shape, codec = self._shape, self._codec
        sequences = rows.unflatten(1, (shape.batch, -1))
        key_bytes = shape.heads * codec.width_bytes(shape.key_dim)
        value_bytes = shape.heads * codec.width_bytes(shape.value_dim)
        states = (
            (sequences[..., :key_bytes], shape.key_dim),
            (sequences[..., key_bytes : key_bytes + value_bytes], shape.value_dim),
        )
        keys, values = (
            codec.decode(part.unflatten(2, (shape.heads, codec.width_bytes(dim))), dim).permute(1, 2, 0, 3)
            for part, dim in states
        )
        return keys, values
