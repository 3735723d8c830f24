"""Weights in blocks: compiled and by torch alone, held against the gguf package bit by bit."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tierline.run.kernels.blocks import BlockKernel
from tierline.run.kernels.compiled import COMPILED, WIDEST, Compiled, compiled
from tierline.run.kernels.expansions import Blocks, half_blocks, runnable_blocks
from tierline.testing.random_blocks import random_blocks

GGUF = {
    name: getattr(gguf.GGMLQuantizationType, name.removeprefix("ggml_").upper())
    for name in runnable_blocks()
    if not name.startswith("mx")
}
OURS = ("mxfp8", "mxfp4", "fp16", "bf16")
MADE = [name for name in (*GGUF, *OURS) if not name.startswith("iq")]  # what random_blocks can make
COMPILER = compiled()
NEEDS_ONE = pytest.mark.skipif(COMPILER is None, reason="no compiler")
WAYS = [pytest.param(COMPILER, id="compiled", marks=NEEDS_ONE), pytest.param(None, id="torch")]


def blocks_of(name: str) -> Blocks:
    return half_blocks(name) if name in ("fp16", "bf16") else runnable_blocks()[name]


def random_bytes(name: str, rows: int, row_blocks: int, seed: int = 0) -> np.ndarray:
    """Return rows of blocks of any bytes at all: infinite and missing scales, every code."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (rows, row_blocks * blocks_of(name).block_bytes), dtype=np.uint8)


def sane_bytes(name: str, rows: int, row_blocks: int, seed: int = 0) -> np.ndarray:
    """Return rows of blocks whose values are finite and of about one size."""
    generator, count = np.random.default_rng(seed), rows * row_blocks
    if name in ("fp16", "bf16"):
        values = torch.from_numpy(generator.standard_normal((rows, row_blocks * 32), dtype=np.float32))
        return (
            values.to(getattr(torch, name.replace("fp", "float").replace("bf", "bfloat")))
            .view(torch.uint8)
            .numpy()
        )
    if "mx" not in name:
        return random_blocks(name, count, generator, 1.0).reshape(rows, -1)
    packed = random_bytes(name, count, 1, seed)
    packed[:, 0] = generator.integers(120, 125, count)
    packed[packed & 0x7F == 0x7F] = 0  # not a number in e4m3
    return packed.reshape(rows, -1)


def reference(name: str, packed: np.ndarray) -> np.ndarray:
    """Return what the bytes stand for, by an independent reader."""
    if name in GGUF:
        return dequantize(packed, GGUF[name])
    if name == "fp16":
        return packed.view(np.float16).astype(np.float32)
    if name == "bf16":
        return (packed.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    size = blocks_of(name).block_bytes
    split = packed.reshape(-1, size)
    import ml_dtypes

    scales = split[:, :1].view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    if name == "mxfp8":
        values = split[:, 1:].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    else:
        codes = np.concatenate([split[:, 1:] & 15, split[:, 1:] >> 4], axis=1)
        values = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    found: np.ndarray = (scales * values).reshape(packed.shape[0], -1)
    return found


def kernel(name: str, dtype: torch.dtype, way: Compiled | None) -> BlockKernel:
    return BlockKernel(blocks_of(name), torch.empty(2**19, dtype=dtype), way)


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Return whether two tensors hold the same bits, but for what is not a number."""
    return torch.equal(found.isnan(), wanted.isnan()) and torch.equal(
        found.nan_to_num(0, 7, 8), wanted.nan_to_num(0, 7, 8)
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*GGUF, *OURS])
def test_any_bytes_expand_to_the_bits_of_the_reference(name: str, way: Compiled | None) -> None:
    rows, row_blocks = 37, 3
    packed = random_bytes(name, rows, row_blocks)
    if name == "ggml_mxfp4":  # gguf knows no missing scale: 2^128 instead
        packed.reshape(-1, 17)[:, 0] %= 255
    columns = row_blocks * blocks_of(name).elements
    raw = memoryview(bytearray(packed.tobytes()))
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(reference(name, packed))
    assert same(kernel(name, torch.float32, way).expand(raw, rows, columns), wanted)
    assert same(kernel(name, torch.bfloat16, way).expand(raw, rows, columns), wanted.bfloat16())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MADE)
def test_products_are_those_with_the_expanded_weights(
    name: str, dtype: torch.dtype, way: Compiled | None
) -> None:
    rows, row_blocks = 211, 1 if blocks_of(name).elements > 32 else 11
    columns = row_blocks * blocks_of(name).elements
    packed = sane_bytes(name, rows, row_blocks)
    raw, weights = memoryview(bytearray(packed.tobytes())), torch.from_numpy(reference(name, packed))
    torch.manual_seed(5)
    for width in (1, 2, 3, 5, 8, WIDEST, WIDEST + 1, 67):
        x = torch.randn(width, columns).to(dtype)
        found = kernel(name, dtype, way).matmul(x, raw, rows)
        wanted = functional.linear(x.double(), weights.double())
        bound = functional.linear(x.double().abs(), weights.double().abs())
        assert found.shape == (width, rows)
        assert found.dtype == dtype
        step = 2.0**-20 if dtype == torch.float32 else 2.0**-7
        assert bool(((found.double() - wanted).abs() <= step * bound + 1e-30).all())


@NEEDS_ONE
@given(
    name=st.sampled_from([n for n in MADE if blocks_of(n).layout in COMPILED]),
    rows=st.integers(1, 97),
    row_blocks=st.integers(1, 19),
    width=st.integers(1, WIDEST),
    first=st.integers(0, 96),
)
def test_an_element_of_a_product_is_the_same_bits_in_any_company(
    name: str, rows: int, row_blocks: int, width: int, first: int
) -> None:
    """Neither other rows of weights nor of x change it: tiles and guessed tokens are exact."""
    columns, first = row_blocks * blocks_of(name).elements, first % rows
    packed = sane_bytes(name, rows, row_blocks, seed=rows)
    x = torch.randn(width, columns, generator=torch.Generator().manual_seed(width))
    together = kernel(name, torch.float32, COMPILER).matmul(x, memoryview(bytearray(packed.tobytes())), rows)
    part = memoryview(bytearray(packed[first:].tobytes()))
    for i in range(width):
        alone = kernel(name, torch.float32, COMPILER).matmul(x[i : i + 1], part, rows - first)
        assert torch.equal(alone[0], together[i, first:])
