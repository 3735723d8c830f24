"""Numbers made smaller: the nearest codes that a format has, and its scales. No formats' layouts here."""

import torch

from tierline.models.packed_forms import MXFP8

_LARGEST_INT8 = 127
_LARGEST_CODE, _MIDDLE_CODE = 15, 8
_MX_BLOCK = 32
_MX_BIAS, _LARGEST_EXPONENT = 127, 254
_E4M3_EXPONENT, _LARGEST_E4M3 = 8, 448.0
_E2M1_EXPONENT = 2
# Halfway between neighbours of 0, 0.5, 1, 1.5, 2, 3, 4 and 6; a tie goes to the even code, so that what lies
# below an even one is a little less.
_E2M1_HALVES = (0.25, 0.75 - 2**-24, 1.25, 1.75 - 2**-23, 2.5, 3.5 - 2**-22, 5.0)


def quantise_int8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 weights, shaped as `values`, and a bf16 scale for each row: `value = weight * scale`."""
    weights, scales = quantise_int8_groups(values, values.shape[1])
    return weights.view(values.shape), scales.view(-1)


def quantise_int8_groups(values: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 weights of shape `(rows, groups, group)`, and bf16 scales of shape `(rows, groups)`."""
    grouped = values.view(values.shape[0], -1, group)
    scales = (grouped.abs().amax(dim=-1) / _LARGEST_INT8).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    weights = (grouped / divisors.unsqueeze(-1)).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8)
    return weights.to(torch.int8), scales


def quantise_int4(values: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes of the shape of `values`, and scales and zeros in bf16 of shape `(rows, groups)`.

    `value = (code - 8) * scale + zero`; the least and greatest of a group are nearly exact.
    """
    grouped = values.view(values.shape[0], -1, group)
    least, greatest = grouped.aminmax(dim=-1)
    scales = ((greatest - least) / _LARGEST_CODE).bfloat16()
    zeros = (least + _MIDDLE_CODE * scales.float()).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    shifted = (grouped - zeros.float()[..., None]) / divisors[..., None]
    codes = shifted.round_().add_(_MIDDLE_CODE).clamp_(0, _LARGEST_CODE)
    return codes.to(torch.uint8).view(values.shape), scales, zeros


def quantise_mx(values: torch.Tensor, name: str) -> torch.Tensor:
    """Return blocks of 32 as bytes, shape `(rows, bytes of a row)`: the scale's exponent, then the elements.

    OCP MX 1.0, 6.3: the scale is the greatest power of two in the block over that of the element format,
    elements are rounded to the nearest (ties to even) and saturate. mxfp4 has the codes of the first half of
    a block in the low nibbles, as GGUF has.
    """
    blocks = values.float().view(-1, _MX_BLOCK)
    exponents = torch.frexp(blocks.abs().amax(dim=-1, keepdim=True)).exponent - 1
    exponents -= _E4M3_EXPONENT if name == MXFP8 else _E2M1_EXPONENT
    biased = (exponents + _MX_BIAS).clamp_(0, _LARGEST_EXPONENT).to(torch.uint8)
    scaled = blocks / biased.view(torch.float8_e8m0fnu).float()
    codes = _e4m3(scaled) if name == MXFP8 else _e2m1_pairs(scaled)
    return torch.cat((biased, codes), dim=1).view(values.shape[0], -1)


def _e4m3(scaled: torch.Tensor) -> torch.Tensor:
    return scaled.clamp(-_LARGEST_E4M3, _LARGEST_E4M3).to(torch.float8_e4m3fn).view(torch.uint8)


def _e2m1_pairs(scaled: torch.Tensor) -> torch.Tensor:
    codes = torch.bucketize(scaled.abs(), torch.tensor(_E2M1_HALVES)).to(torch.uint8)
    codes |= scaled.signbit().to(torch.uint8) << 3
    half = _MX_BLOCK // 2
    return codes[:, :half] | codes[:, half:] << 4
