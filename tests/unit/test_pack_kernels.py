"""Packed kernels against plain products with the weights expanded by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tierline.errors import InputError
from tierline.models.packed_layout import CPU_KEY, INT4, INT8
from tierline.models.stored import StoredTensor
from tierline.run.kernels import Kernels
from tierline.run.kernels.packed import Int4Kernel, Int8Kernel, refuse_other_cpu
from tierline.run.pack.encode import Encoder, quantise_int4, quantise_int8

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
    if number_format == INT8:
        weights, scales = quantise_int8(values)
        return weights.float() * scales.float()[:, None]
    codes, scales, zeros = quantise_int4(values)
    grouped = (codes.float() - 8).view(values.shape[0], -1, 32)
    return (grouped * scales.float()[..., None] + zeros.float()[..., None]).view(values.shape)


def kernel(number_format: str, panel_rows: int) -> Int8Kernel | Int4Kernel:
    return Int8Kernel(panel_rows) if number_format == INT8 else Int4Kernel(panel_rows)


CASES = [
    (INT8, 211, 48, 211), (INT8, 211, 48, 64), (INT8, 1, 16, 1), (INT8, 67, 96, 13), (INT8, 67, 96, 32),
    (INT4, 208, 96, 208), (INT4, 208, 96, 64), (INT4, 16, 32, 16), (INT4, 176, 64, 128),
]  # fmt: skip


@pytest.mark.parametrize(("number_format", "rows", "columns", "panel_rows"), CASES)
def test_products_equal_those_with_expanded_weights(
    number_format: str, rows: int, columns: int, panel_rows: int
) -> None:
    values = matrix(rows, columns)
    raw, expected = panels(values, number_format, panel_rows), by_hand(values, number_format)
    torch.manual_seed(3)
    for width in WIDTHS:
        x = torch.randn(width, columns).bfloat16()
        found = kernel(number_format, panel_rows).matmul(x, raw, rows).float()
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


@given(rows=st.integers(1, 37), groups=st.integers(1, 5), scale=st.floats(1e-6, 1e4), shift=st.floats(-9, 9))
def test_rounding_is_bounded_by_a_step(rows: int, groups: int, scale: float, shift: float) -> None:
    torch.manual_seed(rows)
    values = (torch.randn(rows, groups * 32) + shift) * scale
    step8 = values.abs().amax(1, keepdim=True) / 127
    assert bool(((by_hand(values, INT8) - values).abs() <= step8 * 1.01).all())
    grouped = values.view(rows, -1, 32)
    step4 = (grouped.amax(-1) - grouped.amin(-1)) / 15
    # The zero point is bf16 too: half an ulp of it comes on top of half a step.
    bound = step4 * 0.57 + (grouped.abs().amax(-1) + 8 * step4) * 2**-8
    error = (by_hand(values, INT4) - values).abs().view(rows, -1, 32).amax(-1)
    assert bool((error <= bound).all())


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_constant_weights_are_exact(value: float) -> None:
    values = torch.full((16, 32), value)
    assert torch.equal(by_hand(values, INT4), values)
    torch.testing.assert_close(by_hand(values, INT8), values, rtol=2**-8, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("number_format", [INT8, INT4])
def test_weights_that_are_not_finite_are_refused(bad: float, number_format: str) -> None:
    values = matrix(16, 32)
    values[3, 5] = bad
    with pytest.raises(InputError, match="not finite"):
        panels(values, number_format, 16)


@pytest.mark.parametrize(("name", "has_minimum"), [("Q4_0", False), ("Q4_1", True)])
def test_gguf_blocks_keep_their_codes(name: str, has_minimum: bool) -> None:
    import gguf
    from gguf.quants import dequantize, quantize

    kind = getattr(gguf.GGMLQuantizationType, name)
    blocks = quantize(matrix(48, 64).numpy(), kind)
    stored = StoredTensor("w", name.lower(), (48, 64), Path("w"), 0, blocks.nbytes)
    packed = Encoder().panel(memoryview(bytearray(blocks.tobytes())), stored, 48, INT4)
    found = Int4Kernel(48).expand(packed, 48, 64).float()
    exact = torch.from_numpy(dequantize(blocks, kind))
    # Scales and zeros are rounded to bf16, and so is the expanded weight.
    groups = exact.view(48, -1, 32)
    bound = (groups.abs().amax(-1) * 3 + groups.amax(-1) - groups.amin(-1)) * 2**-8
    assert bool(((found - exact).abs().view(48, -1, 32).amax(-1) <= bound).all())
    assert has_minimum == (name == "Q4_1")


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_order_of_other_cpus_is_learned(capability: str) -> None:
    code = (
        "import torch\nfrom tierline.run.kernels.packed import _codes, _block_rows, pack_int4\n"
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
    assert isinstance(Kernels(torch.bfloat16).of(stored), Int8Kernel)
    with pytest.raises(InputError, match="computed in bf16"):
        Kernels(torch.float32).of(stored)
