"""Products in whole numbers: exact where they say so, the same bits however cut, no nonsense at the ends."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline.run.kernels.building import load_or_build, processor_flags
from tierline.run.kernels.compiled_panels import MOST_COLUMNS, CompiledPanels, compiled_panels
from tierline.run.kernels.int4 import pack_int4

PANELS = compiled_panels()
pytestmark = pytest.mark.skipif(PANELS is None, reason="no compiler, or a processor that multiplies no bytes")


def own() -> CompiledPanels:
    assert PANELS is not None
    return PANELS


def panel(weights: torch.Tensor, scales: torch.Tensor) -> memoryview:
    """Return weights and scales as a file holds them, one panel."""
    parts = (part.contiguous().view(torch.uint8).numpy().tobytes() for part in (weights, scales))
    return memoryview(bytearray().join(parts))


def int8(x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    found = own().int8(x, panel(weights, scales), len(weights), len(weights))
    assert found is not None
    return found


def int4(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, group: int) -> torch.Tensor:
    found = own().int4(x, panel(pack_int4(codes), scales), len(codes), len(codes), group)
    assert found is not None
    return found


def bytes_of(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8)


def pairs_of(rows: int, columns: int, group: int) -> torch.Tensor:
    return torch.randn(columns // group, rows, 2).bfloat16()


def int4_values(codes: torch.Tensor, pairs: torch.Tensor, group: int) -> torch.Tensor:
    scale, zero = pairs.double().permute(2, 1, 0).unsqueeze(-1).unbind(0)
    return ((codes.double() - 8).view(codes.shape[0], -1, group) * scale + zero).view(codes.shape)


def test_processors_without_avx512_find_the_same(tmp_path: Path) -> None:
    cc = shutil.which("cc")
    if cc is None or "avx_vnni" not in processor_flags().split():
        pytest.skip("no compiler, or a processor that cannot show it")
    compiler = tmp_path / "cc"  # one that thinks of another processor
    words = f'for word; do shift; set -- "$@" "${{word/=native/=alderlake}}"; done; exec "{cc}" "$@"'
    compiler.write_text(f"#!/bin/bash\n{words}\n", encoding="utf-8")
    compiler.chmod(0o755)
    narrow = load_or_build("panels.c", tmp_path, compiler, None, CompiledPanels)
    assert narrow is not None
    for rows, columns in ((211, 48), (7, 65), (64, 2048), (5, 8192)):
        torch.manual_seed(rows)
        weights, scales, x = bytes_of(rows, columns), torch.rand(rows).bfloat16(), torch.randn(3, columns)
        found = narrow.int8(x.bfloat16(), panel(weights, scales), rows, rows)
        assert found is not None
        assert torch.equal(found, int8(x.bfloat16(), weights, scales))
    tile = memoryview(bytearray(64 * 40))
    assert narrow.int4(torch.ones(1, 64).bfloat16(), tile, 64, 64, 32) is None


def test_this_processor_has_them() -> None:
    assert shutil.which("cc") is None or PANELS is not None


@given(
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 3, 63, 64, 65, 127, 211, 1024]),
    width=st.integers(1, 5),
    power=st.integers(-60, 60),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_int8_is_exact_for_numbers_of_like_size(
    rows: int, columns: int, width: int, power: int, seed: int
) -> None:
    """Whole numbers up to 128 times a power of two are fixed point already: only the sum is rounded."""
    torch.manual_seed(seed)
    whole = torch.randint(-128, 129, (width, columns))
    weights, scales = bytes_of(rows, columns), torch.randn(rows).bfloat16()
    found = int8((whole.double() * 2.0**power).bfloat16(), weights, scales)
    sums = (whole.long() @ weights.long().T).double()  # exact
    wanted = (sums.float() * 2.0**power * scales.float()).bfloat16()
    assert torch.equal(found, wanted)


@given(columns=st.sampled_from([64, 100, 512]), spread=st.integers(0, 40), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_what_is_lost_is_bounded_by_the_greatest(columns: int, spread: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(2, columns) * torch.exp2(-spread * torch.rand(2, columns))).bfloat16()
    weights, scales = bytes_of(7, columns), torch.rand(7).bfloat16()
    wanted = (x.double() @ weights.double().T) * scales.double()
    # Half a unit of fixed point for each number, then fp32 twice and bf16 once.
    lost = columns * 128 * x.double().abs().amax(1, keepdim=True) * 2.0**-22 * scales.double()
    assert bool(((int8(x, weights, scales).double() - wanted).abs() <= lost + wanted.abs() * 2**-8).all())


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_is_as_close_as_bf16_allows(group: int) -> None:
    torch.manual_seed(group)
    rows, columns = 192, 384
    codes, pairs = torch.randint(0, 16, (rows, columns)), pairs_of(rows, columns, group)
    x = torch.randn(16, columns).bfloat16()
    wanted = x.double() @ int4_values(codes, pairs, group).T
    error = (int4(x, codes, pairs, group).double() - wanted).abs()
    magnitudes = x.double().abs() @ int4_values(codes, pairs, group).abs().T
    assert bool((error <= wanted.abs() * 2**-8 + magnitudes * 2**-18).all())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_cuts_companions_and_threads_change_no_bit(threads: int) -> None:
    torch.manual_seed(7)
    rows, columns, before = 512, 256, torch.get_num_threads()
    weights, scales = bytes_of(rows, columns), torch.rand(rows).bfloat16()
    codes, pairs = torch.randint(0, 16, (rows, columns)), pairs_of(rows, columns, 32)
    x = torch.randn(16, columns).bfloat16()
    whole8, whole4 = int8(x, weights, scales), int4(x, codes, pairs, 32)
    try:
        torch.set_num_threads(threads)
        for n in (0, 11):
            for start, stop in ((0, 64), (64, 448), (448, 512)):
                row, cut = x[n : n + 1], slice(start, stop)
                assert torch.equal(int8(row, weights[cut], scales[cut])[0], whole8[n, cut])
                some = pairs[:, cut].contiguous()
                assert torch.equal(int4(row, codes[cut], some, 32)[0], whole4[n, cut])
        assert torch.equal(int8(x[:1], weights[3:10], scales[3:10])[0], whole8[0, 3:10])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_spoils_itself_alone(bad: float) -> None:
    x = torch.ones(3, 64).bfloat16()
    x[1, 5] = bad
    codes, pairs = torch.full((64, 64), 9), torch.ones(2, 64, 2).bfloat16()
    for found in (
        int8(x, torch.ones(5, 64, dtype=torch.int8), torch.ones(5).bfloat16()),
        int4(x, codes, pairs, 32),
    ):
        assert bool(found[1].isnan().all())
        assert bool(found[[0, 2]].isfinite().all())


@pytest.mark.parametrize("value", [0.0, 2.0**-126, 2.0**-133, 3e38])
def test_the_ends_of_the_range(value: float) -> None:
    x = torch.full((1, 64), value).bfloat16()
    found = int8(x, torch.ones(3, 64, dtype=torch.int8), torch.full((3,), 0.25).bfloat16())
    wanted = x.double().sum() * 0.25
    # What is tiny beside 2^-100 is taken as nothing: in bf16 it would vanish in any sum that has more.
    assert bool(((found.double() - wanted).abs() <= wanted.abs() * 2**-8 + 2.0**-115).all()) or value > 1
    if value > 1:
        assert torch.equal(found.double().isinf(), wanted.bfloat16().isinf().expand(1, 3))


def test_what_it_cannot_do_is_left_to_torch() -> None:
    x = torch.ones(1, 64).bfloat16()
    tile = memoryview(bytearray(2 * (MOST_COLUMNS + 18)))
    assert own().int4(x, tile, 48, 48, 32) is None
    assert own().int4(x, tile, 128, 48, 32) is None
    assert own().int8(torch.ones(1, MOST_COLUMNS + 16).bfloat16(), tile, 2, 2) is None


def test_x_of_another_format_and_a_tile_that_is_too_short_are_left_alone() -> None:
    tile = memoryview(bytearray(64 * 66))
    assert own().int8(torch.ones(1, 64), tile, 64, 64) is None
    assert own().int8(torch.ones(1, 64).bfloat16(), tile[:-1], 64, 64) is None
    assert own().int4(torch.ones(1, 64), tile, 64, 64, 32) is None
    assert own().int4(torch.ones(1, 64).bfloat16(), tile[: 64 * 40 - 1], 64, 64, 32) is None


def test_the_most_columns_do_not_overflow() -> None:
    weights = torch.full((4, MOST_COLUMNS), -128, dtype=torch.int8)
    weights[1::2] = 127
    for sign in (1, -1):
        x = torch.full((1, MOST_COLUMNS), sign * 255.0).bfloat16()
        wanted = x.double() @ weights.double().T
        assert torch.equal(int8(x, weights, torch.ones(4).bfloat16()), wanted.float().bfloat16())
