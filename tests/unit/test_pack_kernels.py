"""Packed kernels against plain products with the weights expanded by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tierline.errors import InputError
from tierline.models.packed_forms import FORMS, INT4, INT8, INT8_GROUP, MXFP4, MXFP8, is_panelled
from tierline.models.packed_layout import CPU_KEY
from tierline.models.stored import StoredTensor
from tierline.run.kernels import Kernels
from tierline.run.kernels.compiled_panels import CompiledPanels, compiled_panels
from tierline.run.kernels.packed import PanelKernel, panels_of, refuse_other_cpu
from tierline.run.pack.encode import Encoder
from tierline.run.pack.quantise import quantise_int4, quantise_int8, quantise_int8_groups, quantise_mx
from tierline.testing.random_blocks import random_blocks

WIDTHS = [*range(1, 18), 100]


def matrix(rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(rows * 1009 + columns)
    return torch.randn(rows, columns) * torch.rand(rows, 1) + 0.1


def panels(values: torch.Tensor, number_format: str, panel_rows: int) -> memoryview:
    """Return `values` packed panel by panel, as a file holds them."""
    encoder, packed = Encoder(), bytearray()
    for start in range(0, values.shape[0], panel_rows):
        part = values[start : start + panel_rows]
        stored = StoredTensor("w", "fp32", tuple(part.shape), Path("w"), 0, part.nbytes)
        raw = memoryview(bytearray(part.contiguous().numpy().tobytes()))
        packed += encoder.panel(raw, stored, part.shape[0], number_format)
    return memoryview(packed)


def by_hand(values: torch.Tensor, number_format: str) -> torch.Tensor:
    """Return what the packed weights stand for, in fp32."""
    group = FORMS[number_format].group
    if number_format == INT8:
        weights, scales = quantise_int8(values)
        return weights.float() * scales.float()[:, None]
    if number_format == INT8_GROUP:
        weights, scales = quantise_int8_groups(values, group)
        return (weights.float() * scales.float()[..., None]).view(values.shape)
    codes, scales, zeros = quantise_int4(values, group)
    grouped = (codes.float() - 8).view(values.shape[0], -1, group)
    return (grouped * scales.float()[..., None] + zeros.float()[..., None]).view(values.shape)


def kernel(number_format: str, panel_rows: int, compiled: CompiledPanels | None = None) -> PanelKernel:
    return PanelKernel(panels_of(number_format, compiled), panel_rows)


INT4_64, INT4_128 = INT4.replace("32", "64"), INT4.replace("32", "128")
CASES = [
    (INT8, 211, 48, 211), (INT8, 211, 48, 64), (INT8, 1, 16, 1), (INT8, 67, 96, 13), (INT8, 67, 96, 32),
    (INT4, 208, 96, 208), (INT4, 208, 96, 64), (INT4, 16, 32, 16), (INT4, 176, 64, 128),
    (INT4_64, 208, 192, 64), (INT4_128, 80, 384, 64), (INT4_128, 16, 128, 16),
    (INT4, 256, 96, 128), (INT4_128, 192, 256, 64),
    (INT8_GROUP, 211, 384, 64), (INT8_GROUP, 67, 128, 67), (INT8_GROUP, 1, 256, 1),
]  # fmt: skip


@pytest.mark.parametrize("compiled", [None, compiled_panels()], ids=["torch", "own"])
@pytest.mark.parametrize(("number_format", "rows", "columns", "panel_rows"), CASES)
def test_products_equal_those_with_expanded_weights(
    number_format: str, rows: int, columns: int, panel_rows: int, compiled: CompiledPanels | None
) -> None:
    values = matrix(rows, columns)
    raw, expected = panels(values, number_format, panel_rows), by_hand(values, number_format)
    torch.manual_seed(3)
    for width in WIDTHS:
        x = torch.randn(width, columns).bfloat16()
        found = kernel(number_format, panel_rows, compiled).matmul(x, raw, rows).float()
        wanted = functional.linear(x.float(), expected)
        assert found.shape == (width, rows)
        assert float((found - wanted).abs().max()) <= 0.006 * float(wanted.abs().max())


@pytest.mark.parametrize(("number_format", "rows", "columns", "panel_rows"), CASES)
def test_expanded_weights_are_those_that_were_packed(
    number_format: str, rows: int, columns: int, panel_rows: int
) -> None:
    values = matrix(rows, columns)
    found = kernel(number_format, panel_rows).expand(panels(values, number_format, panel_rows), rows, columns)
    torch.testing.assert_close(found.float(), by_hand(values, number_format), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("form", [INT8, INT4])
def test_a_panel_alone_gives_the_bits_that_it_gives_in_a_tile(form: str) -> None:
    values, panel_rows = matrix(208, 96), 64  # the last panel has 16 rows, which torch orders otherwise
    raw, kernel_ = panels(values, form, panel_rows), kernel(form, panel_rows, compiled_panels())
    x = torch.randn(3, 96).bfloat16()
    whole, row_bytes = kernel_.matmul(x, raw, 208), len(raw) // 208
    for start in range(0, 208, panel_rows):
        stop = min(208, start + panel_rows)
        alone = kernel_.matmul(x, raw[start * row_bytes : stop * row_bytes], stop - start)
        assert torch.equal(alone, whole[:, start:stop])


@pytest.mark.parametrize(("form", "width"), [(INT8, 32), (INT4, 100)])
def test_many_rows_give_the_bits_of_each_alone(form: str, width: int) -> None:
    raw, own = panels(matrix(192, 96), form, 64), kernel(form, 64, compiled_panels())
    if compiled_panels() is None:
        pytest.skip("no compiler, or a processor that multiplies no bytes")
    x = torch.randn(width, 96).bfloat16()
    assert torch.equal(own.matmul(x, raw, 192), torch.cat([own.matmul(row, raw, 192) for row in x.split(1)]))


@given(rows=st.integers(1, 37), groups=st.integers(1, 3), scale=st.floats(1e-6, 1e4), shift=st.floats(-9, 9))
@settings(max_examples=40)
def test_rounding_is_bounded_by_a_step(rows: int, groups: int, scale: float, shift: float) -> None:
    torch.manual_seed(rows)
    values = (torch.randn(rows, groups * 128) + shift) * scale
    for form in filter(is_panelled, FORMS):
        grouped = values.view(rows, -1, FORMS[form].group or values.shape[1])
        error = (by_hand(values, form) - values).abs().view(grouped.shape).amax(-1)
        if form.startswith("int8"):
            assert bool((error <= grouped.abs().amax(-1) / 127 * 1.01).all())
            continue
        step = (grouped.amax(-1) - grouped.amin(-1)) / 15
        # The zero point is bf16 too: half an ulp of it comes on top of half a step.
        assert bool((error <= step * 0.57 + (grouped.abs().amax(-1) + 8 * step) * 2**-8).all())


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_constant_weights_are_exact(value: float) -> None:
    values = torch.full((16, 32), value)
    assert torch.equal(by_hand(values, INT4), values)
    torch.testing.assert_close(by_hand(values, INT8), values, rtol=2**-8, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("number_format", FORMS)
def test_weights_that_are_not_finite_are_refused(bad: float, number_format: str) -> None:
    values = matrix(16, 128)
    values[3, 5] = bad
    with pytest.raises(InputError, match="not finite"):
        panels(values, number_format, 16)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q4_k"])
def test_gguf_blocks_keep_their_codes(name: str) -> None:
    import gguf
    from gguf.quants import dequantize

    rows, columns = 48, 256
    kind = gguf.GGMLQuantizationType[name.upper()]
    count = rows * columns // gguf.GGML_QUANT_SIZES[kind][0]
    blocks = random_blocks(name, count, np.random.default_rng(7), 1.0).reshape(rows, -1)
    stored = StoredTensor("w", name, (rows, columns), Path("w"), 0, blocks.nbytes)
    packed = Encoder().panel(memoryview(bytearray(blocks.tobytes())), stored, rows, INT4)
    found = kernel(INT4, rows).expand(packed, rows, columns).float()
    exact = torch.from_numpy(dequantize(blocks, kind)).view(rows, columns)
    # Scales and zeros are rounded to bf16, and so is the expanded weight.
    groups = exact.view(rows, -1, 32)
    bound = (groups.abs().amax(-1) * 3 + groups.amax(-1) - groups.amin(-1)) * 2**-8
    assert bool(((found - exact).abs().view(rows, -1, 32).amax(-1) <= bound).all())


def test_blocks_with_infinite_scales_are_refused() -> None:
    block = memoryview(bytearray(np.array([np.inf], np.float16).tobytes() + bytes(16)) * 16)
    with pytest.raises(InputError, match="not finite"):
        Encoder().panel(block, StoredTensor("w", "q4_0", (16, 32), Path("w"), 0, 288), 16, INT4)


@given(
    rows=st.integers(1, 7), blocks=st.integers(1, 4), power=st.integers(-140, 120), seed=st.integers(0, 99)
)
def test_mx_is_ocps_own(rows: int, blocks: int, power: int, seed: int) -> None:
    """The scale is the greatest power of two over the element's; ml_dtypes rounds the elements."""
    import ml_dtypes

    values = np.random.default_rng(seed).standard_normal((rows * blocks, 32), dtype=np.float32)
    values = np.ldexp(np.round(values * 8) / 8, power).astype(np.float32)  # eighths: many ties
    greatest = np.abs(values).max(axis=1, keepdims=True)
    for name, element, least_exponent, most in (
        (MXFP8, ml_dtypes.float8_e4m3fn, 8, 448.0),
        (MXFP4, ml_dtypes.float4_e2m1fn, 2, 6.0),
    ):
        with np.errstate(divide="ignore"):
            exponents = np.clip(np.floor(np.log2(greatest.astype(np.float64))) - least_exponent, -127, 127)
        scales = np.ldexp(1.0, exponents.astype(int))
        wanted = np.clip(values / scales, -most, most).astype(element).astype(np.float64) * scales
        packed = quantise_mx(torch.from_numpy(values.reshape(rows, -1)), name)
        stored = StoredTensor("w", name, (rows, blocks * 32), Path("w"), 0, packed.nbytes)
        raw = memoryview(bytearray(packed.numpy().tobytes()))
        found = Kernels(torch.float32).of(stored).expand(raw, rows, blocks * 32)
        assert np.array_equal(found.numpy().reshape(wanted.shape), wanted.astype(np.float32))


def test_mxfp4_blocks_are_laid_out_as_in_gguf() -> None:
    import gguf
    from gguf.quants import dequantize

    values = matrix(5, 96)
    packed = quantise_mx(values, MXFP4)
    theirs = torch.from_numpy(dequantize(packed.numpy(), gguf.GGMLQuantizationType.MXFP4))
    stored = StoredTensor("w", MXFP4, (5, 96), Path("w"), 0, packed.nbytes)
    raw = memoryview(bytearray(packed.numpy().tobytes()))
    assert torch.equal(Kernels(torch.float32).of(stored).expand(raw, 5, 96), theirs.view(5, 96))


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_order_of_other_cpus_is_learned(capability: str) -> None:
    code = (
        "import torch\nfrom tierline.run.kernels.int4 import _codes, _block_rows, pack_int4\n"
        "for rows in (16, 32):\n"
        "    codes = torch.randint(0, 16, (rows, 64), dtype=torch.uint8)\n"
        "    assert torch.equal(_codes(pack_int4(codes), rows), codes)\n"
        "print(torch.backends.cpu.get_cpu_capability(), _block_rows())"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [capability.upper(), "32"], done.stderr


def test_a_file_packed_for_another_cpu_is_refused() -> None:
    refuse_other_cpu({}, Path("m"))
    refuse_other_cpu({CPU_KEY: torch.backends.cpu.get_cpu_capability()}, Path("m"))
    with pytest.raises(InputError, match=r"packed for the kernels of VSX.*tierline pack"):
        refuse_other_cpu({CPU_KEY: "VSX"}, Path("m"))


def test_packed_weights_are_computed_in_bf16_only() -> None:
    stored = StoredTensor("w", INT8, (16, 32), Path("w"), 0, 16 * 34, 16)
    assert isinstance(Kernels(torch.bfloat16).of(stored), PanelKernel)
    with pytest.raises(InputError, match="computed in bf16"):
        Kernels(torch.float32).of(stored)
