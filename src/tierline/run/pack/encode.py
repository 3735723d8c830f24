"""Turn rows of a stored matrix into one packed panel."""

import math
from typing import Any

import torch

from tierline.errors import InputError
from tierline.models.packed_layout import GROUP, INT4, INT8, is_packed
from tierline.models.stored import StoredTensor
from tierline.run.kernels import DENSE_DTYPES, Kernels
from tierline.run.kernels.packed import pack_int4

_LARGEST_INT8 = 127
_LARGEST_CODE, _MIDDLE_CODE = 15, 8
_HALF_BYTES = 16  # of the nibbles in a block of 32


class Encoder:
    """Makes panels; keeps the kernels that expand what it reads."""

    def __init__(self) -> None:
        self._kernels = Kernels(torch.float32)

    def panel(self, raw: memoryview, source: StoredTensor, rows: int, number_format: str) -> memoryview:
        """Return `rows` rows of `source`, which lie in `raw`, as one panel in `number_format`.

        The panel is written as it is stored: bytes of weights, then of scales. Raises InputError for
        weights that are not finite, or in a format that cannot be read.
        """
        if number_format == source.format:
            return raw
        if number_format == INT4 and source.format in ("q4_0", "q4_1"):
            return _join(*_int4_from_blocks(raw, rows, has_minimum=source.format == "q4_1"))
        columns = math.prod(source.shape[1:])
        values = self._kernels.of(source).expand(raw, rows, columns)
        if not is_packed(number_format):
            return _bytes_of(values.to(DENSE_DTYPES[number_format]))
        parts = quantise_int8(values) if number_format == INT8 else _int4_parts(*quantise_int4(values))
        if not parts[1].isfinite().all():
            raise InputError(
                f"{source.path}: {source.name} holds weights that are not finite (or too large for bf16): "
                "they cannot be packed"
            )
        return _join(*parts)


def quantise_int8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 weights, shaped as `values`, and a bf16 scale for each row: `value = weight * scale`."""
    scales = (values.abs().amax(dim=1) / _LARGEST_INT8).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    weights = (values / divisors[:, None]).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8)
    return weights.to(torch.int8), scales


def quantise_int4(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes of the shape of `values`, and scales and zeros in bf16 of shape `(rows, groups)`.

    `value = (code - 8) * scale + zero`; the least and greatest of a group are nearly exact.
    """
    grouped = values.view(values.shape[0], -1, GROUP)
    least, greatest = grouped.aminmax(dim=-1)
    scales = ((greatest - least) / _LARGEST_CODE).bfloat16()
    zeros = (least + _MIDDLE_CODE * scales.float()).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    shifted = (grouped - zeros.float()[..., None]) / divisors[..., None]
    codes = shifted.round_().add_(_MIDDLE_CODE).clamp_(0, _LARGEST_CODE)
    return codes.to(torch.uint8).view(values.shape), scales, zeros


def _int4_from_blocks(raw: memoryview, rows: int, *, has_minimum: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q4_0 or q4_1 blocks as int4 parts, codes unchanged: `d code + m = (code - 8) d + m + 8d`."""
    header = 4 if has_minimum else 2
    blocks = torch.frombuffer(raw, dtype=torch.uint8).view(rows, -1, header + _HALF_BYTES)
    factors = blocks[..., :header].contiguous().view(torch.float16).float()
    nibbles = blocks[..., header:]
    codes = torch.cat((nibbles & 15, nibbles >> 4), dim=-1).view(rows, -1)
    scales = factors[..., 0]
    zeros = factors[..., 1] + _MIDDLE_CODE * scales if has_minimum else torch.zeros_like(scales)
    return _int4_parts(codes, scales.bfloat16(), zeros.bfloat16())


def _int4_parts(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the kernel reads: packed codes, and `[groups, rows, 2]` of scales and zeros."""
    return pack_int4(codes), torch.stack((scales.T, zeros.T), dim=-1)


def _join(*parts: torch.Tensor) -> memoryview:
    return memoryview(bytearray().join(_bytes_of(part) for part in parts))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.contiguous().view(torch.uint8).reshape(-1).numpy()
    return memoryview(array)
