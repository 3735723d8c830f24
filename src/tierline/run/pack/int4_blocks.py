"""GGUF's 4-bit blocks as int4 panels, their codes unchanged: only scales are rounded, to bf16."""

import torch

from tierline.run.kernels.int4 import pack_int4

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_MIDDLE_CODE = 8
_HALF_BYTES = 16  # of the nibbles in a block of 32
_SUPER_BYTES = 144  # of a block of q4_k: two fp16 factors, 12 bytes of scales, 128 of nibbles


def int4_from_blocks(raw: memoryview, block_type: str, rows: int) -> tuple[torch.Tensor, ...] | None:
    """Return `rows` rows of q4_0, q4_1 or q4_k as int4 parts in groups of 32; None for another type.

    `scale code + minimum = (code - 8) scale + (minimum + 8 scale)`.
    """
    packed = torch.frombuffer(raw, dtype=torch.uint8).view(rows, -1)
    readers = {"q4_0": _of_q4_0, "q4_1": _of_q4_1, "q4_k": _of_q4_k}
    if block_type not in readers:
        return None
    codes, scales, minima = readers[block_type](packed)
    return int4_parts(codes, scales.bfloat16(), (minima + _MIDDLE_CODE * scales).bfloat16())


def int4_parts(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the kernel reads: packed codes, and `[groups, rows, 2]` of scales and zeros."""
    return pack_int4(codes), torch.stack((scales.T, zeros.T), dim=-1)


def _of_q4_0(packed: torch.Tensor) -> Parts:
    """Return codes of shape `(rows, columns)`, and scales and minima of shape `(rows, groups)`."""
    codes, factors = _of_small(packed, 2)
    return codes, factors[..., 0], -_MIDDLE_CODE * factors[..., 0]


def _of_q4_1(packed: torch.Tensor) -> Parts:
    """Return the same of q4_1, which stores its minima."""
    codes, factors = _of_small(packed, 4)
    return codes, factors[..., 0], factors[..., 1]


def _of_small(packed: torch.Tensor, header: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes, and the fp16 factors in the first `header` bytes of each block of 32."""
    rows = packed.shape[0]
    blocks = packed.view(rows, -1, header + _HALF_BYTES)
    factors = blocks[..., :header].contiguous().view(torch.float16).float()
    nibbles = blocks[..., header:]
    return torch.cat((nibbles & 15, nibbles >> 4), dim=-1).view(rows, -1), factors


def _of_q4_k(packed: torch.Tensor) -> Parts:
    """Return the same of q4_k: each of a block's 8 groups has six bits of scale and of minimum."""
    rows = packed.shape[0]
    blocks = packed.view(rows, -1, _SUPER_BYTES)
    factors = blocks[..., :4].contiguous().view(torch.float16).float()
    low, high, both = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = torch.cat((low & 63, (both & 15) | (low >> 6 << 4)), dim=-1)
    minima = torch.cat((high & 63, (both >> 4) | (high >> 6 << 4)), dim=-1)
    nibbles = blocks[..., 16:].view(rows, -1, 4, 1, 32)
    codes = torch.cat((nibbles & 15, nibbles >> 4), dim=-2).view(rows, -1)
    by, off = factors[..., :1] * scales.float(), factors[..., 1:] * minima.float()
    return codes, by.view(rows, -1), -off.view(rows, -1)
