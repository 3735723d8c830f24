"""Experts in MXFP4 as GPT-OSS is published: codes in one tensor, the scales of their blocks in another.

Two codes lie in a byte, neighbours, where the kernels for MXFP4 have the first half of a block in the low
nibbles and the second in the high ones. Scale and codes are put side by side when an expert is used, and the
columns of what it multiplies are put into the nibbles' order, so that no matrix is ever expanded for that.
"""

import torch

from tierline.models.packed_forms import FORMS, MXFP4

_BLOCK = FORMS[MXFP4].group


def join(codes: memoryview, scales: memoryview) -> memoryview:
    """Return blocks of MXFP4: each scale before its codes."""
    scale = torch.frombuffer(scales, dtype=torch.uint8).view(-1, 1)
    code = torch.frombuffer(codes, dtype=torch.uint8).view(scale.shape[0], -1)
    return torch.cat([scale, code], dim=1).view(-1).numpy().data


def by_nibble(x: torch.Tensor) -> torch.Tensor:
    """Return the columns of `x`, `(n, columns)`, in the order of nibbles: even before odd in each block."""
    pairs = x.view(x.shape[0], -1, _BLOCK // 2, 2)
    return pairs.transpose(-1, -2).reshape(x.shape)
