"""How a sequence's keys and values of one token become the bytes of a row, and back."""

from typing import Protocol

import torch

_INT8_LARGEST = 127


class Codec(Protocol):
    """The bytes of states: of one head's vector for one token, and of many."""

    def width_bytes(self, dim: int) -> int:
        """Return the bytes of one head's `dim` elements."""
        ...

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Return states `(..., dim)` as bytes `(..., width_bytes(dim))`, uint8."""
        ...

    def decode(self, rows: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the states `(..., dim)` of bytes `(..., width_bytes(dim))`, a view where that can be."""
        ...


class AsComputed:
    """States as they are: what is read back has the same bits."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def width_bytes(self, dim: int) -> int:
        """Return the bytes of one head's `dim` elements."""
        return dim * self._dtype.itemsize

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Return the bytes of `states`, uint8."""
        return states.contiguous().view(torch.uint8)

    def decode(self, rows: torch.Tensor, dim: int) -> torch.Tensor:  # noqa: ARG002 - the protocol's
        """Return a view of `rows` as states."""
        return rows.view(self._dtype)


class Int8:
    """Eight bits an element and one fp32 scale per head and token: `int8:channel`, the head being the row.

    The scale is the largest magnitude over 127, so what is read back is within half a scale of what came.
    Bytes are in the order scale, elements.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def width_bytes(self, dim: int) -> int:
        """Return the bytes of one head's `dim` elements with their scale."""
        return torch.float32.itemsize + dim

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Return the bytes of `states`, uint8."""
        exact = states.float()
        scale = exact.abs().amax(dim=-1, keepdim=True) / _INT8_LARGEST
        whole = torch.round(exact / scale.clamp_min(torch.finfo(torch.float32).tiny)).to(torch.int8)
        return torch.cat((scale.view(torch.uint8), whole.view(torch.uint8)), dim=-1)

    def decode(self, rows: torch.Tensor, dim: int) -> torch.Tensor:
        """Return new states in the dtype that is computed in."""
        scale_bytes = torch.float32.itemsize
        scale = rows[..., :scale_bytes].contiguous().view(torch.float32)
        return (rows[..., scale_bytes : scale_bytes + dim].view(torch.int8) * scale).to(self._dtype)
