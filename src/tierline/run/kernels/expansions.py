"""Blocks expanded by torch alone: what stands in where nothing can be compiled, with the same bits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize

from tierline.formats.ggml import ggml_blocks

Expansion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A format in blocks of `elements` of a row in `block_bytes`.

    `expand(packed, out)` fills `out` of shape `(blocks, elements)` in fp32 from bytes of shape
    `(blocks, block_bytes)`; `layout` is the name of the compiled kernel for it, if there is one.
    """

    name: str
    elements: int
    block_bytes: int
    expand: Expansion
    layout: str


def runnable_blocks() -> Mapping[str, Blocks]:
    """Return every format in blocks that can be expanded, by name: GGUF's and OCP's MX."""
    made = {
        b.name: Blocks(
            b.name,
            b.block_elements,
            b.block_bytes,
            _expansion(b.name, b.type_id),
            _LAYOUTS.get(b.name, b.name),
        )
        for b in ggml_blocks().values()
        if b.type_id in GGML_BLOCK or b.name in _EXPANSIONS
    }
    mx = (Blocks(name, 32, size, _EXPANSIONS[name], name) for name, size in (("mxfp8", 33), ("mxfp4", 17)))
    return MappingProxyType(made | {blocks.name: blocks for blocks in mx})


def half_blocks(name: str) -> Blocks:
    """Return rows of `fp16` or `bf16` as blocks, for compute in another format."""
    stored = {"fp16": torch.float16, "bf16": torch.bfloat16}[name]
    return Blocks(name, 32, 64, lambda packed, out: out.copy_(packed.view(stored)), name)


def _expansion(name: str, type_id: int) -> Expansion:
    if name in _EXPANSIONS:
        return _EXPANSIONS[name]
    return lambda packed, out: out.copy_(dequantize(packed.reshape(-1), type_id, torch.float32).view_as(out))


def _expand_q4_0(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """d (fp16), 16 bytes of nibbles: value = d * (nibble - 8)."""
    return _nibbles(packed[:, 2:], out).sub_(8).mul_(_halves(packed[:, :2]))


def _expand_q4_1(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """d and m (fp16), 16 bytes of nibbles: value = d * nibble + m."""
    scale = _halves(packed[:, :4])
    return _nibbles(packed[:, 4:], out).mul_(scale[:, :1]).add_(scale[:, 1:])


def _expand_q5_0(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """d (fp16), 32 fifth bits, 16 bytes of nibbles: value = d * (code - 16)."""
    codes = _nibbles(packed[:, 6:], out).add_(_fifth_bits(packed[:, 2:6]))
    return codes.sub_(16).mul_(_halves(packed[:, :2]))


def _expand_q5_1(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """d and m (fp16), 32 fifth bits, 16 bytes of nibbles: value = d * code + m."""
    codes, scale = _nibbles(packed[:, 8:], out).add_(_fifth_bits(packed[:, 4:8])), _halves(packed[:, :4])
    return codes.mul_(scale[:, :1]).add_(scale[:, 1:])


def _expand_mxfp4(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The scale's exponent, 16 bytes of e2m1 codes: value = 2^(e - 127) * code."""
    values = torch.tensor([*_E2M1, *(-v for v in _E2M1)])
    half = packed.shape[1] - 1
    out[:, :half] = values[(packed[:, 1:] & 15).int()]
    out[:, half:] = values[(packed[:, 1:] >> 4).int()]
    return out.mul_(_powers(packed[:, :1]))


def _expand_mxfp8(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The scale's exponent, 32 bytes of e4m3: value = 2^(e - 127) * element."""
    return out.copy_(packed[:, 1:].view(torch.float8_e4m3fn)).mul_(_powers(packed[:, :1]))


def _halves(packed: torch.Tensor) -> torch.Tensor:
    return packed.view(torch.float16).float()


def _powers(exponents: torch.Tensor) -> torch.Tensor:
    """Return 2^(e - 127), not a number for 255."""
    return exponents.view(torch.float8_e8m0fnu).float()


def _fifth_bits(packed: torch.Tensor) -> torch.Tensor:
    places = torch.arange(8, dtype=torch.uint8)
    return ((packed.unsqueeze(-1) >> places & 1) << 4).view(packed.shape[0], -1)


def _nibbles(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Fill `out` with low nibbles first, then high ones: half the time of the library's general shift."""
    half = packed.shape[1]
    out[:, :half] = packed & 15
    out[:, half:] = packed >> 4
    return out


_EXPANSIONS: Mapping[str, Expansion] = MappingProxyType(
    {
        "q4_0": _expand_q4_0,
        "q4_1": _expand_q4_1,
        "q5_0": _expand_q5_0,
        "q5_1": _expand_q5_1,
        "mxfp8": _expand_mxfp8,
        "mxfp4": _expand_mxfp4,
        "ggml_mxfp4": _expand_mxfp4,
    }
)
_LAYOUTS: Mapping[str, str] = MappingProxyType({"ggml_mxfp4": "mxfp4"})
