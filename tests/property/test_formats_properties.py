"""What holds of every format, every option and every shape."""

from contextlib import suppress
from fractions import Fraction
from math import ceil, lcm, prod

from hypothesis import assume, given
from hypothesis import strategies as st

from tierline.errors import InputError
from tierline.formats.builders import BUILDERS
from tierline.formats.format import Format, footprint_bytes
from tierline.formats.ggml import GgmlBlocks, ggml_blocks
from tierline.formats.mix import MIXES
from tierline.formats.parse import parse_format, parse_weights
from tierline.formats.weight import Weight

sizes = st.integers(1, 300)
groups = st.integers(1, 300)
scales = st.sampled_from(["", ",scale=fp16", ",scale=bf16", ",scale=fp32"])
scopes = st.one_of(st.sampled_from(["tensor", "channel"]), groups.map(lambda n: f"group={n}"))
names = st.one_of(
    st.sampled_from(sorted(BUILDERS)),
    st.sampled_from(sorted(ggml_blocks())),
    st.builds(
        "{}:{}{}{}".format,
        st.sampled_from(["int8", "int4", "int2"]),
        scopes,
        scales,
        st.sampled_from(["", ",zero=none", ",zero=int", ",zero=float"]),
    ),
    st.builds(
        "{}:{}{}".format, st.sampled_from(["fp8", "fp8_e5m2", "ternary", "ternary:dense"]), scopes, scales
    ).map(lambda text: text.replace(":dense:", ":dense,")),
    st.builds(
        "{}:block={}".format, st.sampled_from(["mxfp8", "mxfp6", "mxfp4", "mxint8", "nf4", "fp4"]), groups
    ),
    st.builds("nf4:double,block={}".format, groups),
    st.builds("gptq:bits={},group={}".format, st.sampled_from([2, 3, 4, 8]), groups),
    st.builds("awq:group={}".format, groups),
)
formats = names.map(parse_format)


def block(chosen: Format) -> int:
    """Return the least width of a row that GGUF would accept; 1 for all other formats."""
    return chosen.block_elements if isinstance(chosen, GgmlBlocks) else 1


@given(formats)
def test_the_canonical_name_is_read_back_as_the_same_format(chosen: Format) -> None:
    assert parse_format(chosen.name) == chosen
    assert parse_format(chosen.name).name == chosen.name


@given(formats, sizes, sizes)
def test_no_tensor_is_smaller_than_its_bits(chosen: Format, rows: int, blocks: int) -> None:
    columns = blocks * block(chosen)
    assert chosen.footprint_bytes((rows, columns)) >= ceil(rows * columns * chosen.bits_per_element / 8)


@given(formats, sizes, sizes, sizes)
def test_footprint_grows_with_rows_and_columns(chosen: Format, rows: int, blocks: int, more: int) -> None:
    columns, wider = blocks * block(chosen), (blocks + more) * block(chosen)
    least = chosen.footprint_bytes((rows, columns))
    assert least <= chosen.footprint_bytes((rows + more, columns))
    assert least <= chosen.footprint_bytes((rows, wider))


@given(formats, sizes, sizes)
def test_rows_add_up(chosen: Format, rows: int, blocks: int) -> None:
    """Rows stored apart take at least what they take together: only what a tensor has once is saved."""
    columns = blocks * block(chosen)
    together = chosen.footprint_bytes((rows, columns))
    apart = rows * chosen.footprint_bytes((1, columns))
    assert together <= apart
    if isinstance(chosen, GgmlBlocks):
        assert together == apart


@given(formats, st.integers(1, 5), sizes, sizes)
def test_experts_add_up_exactly(chosen: Format, experts: int, rows: int, blocks: int) -> None:
    shape = (experts, rows, blocks * block(chosen))
    assert footprint_bytes(chosen, shape, "experts") == experts * chosen.footprint_bytes(shape[1:])


@given(formats)
def test_a_large_matrix_has_the_bits_per_element_that_are_promised(chosen: Format) -> None:
    columns = lcm(chosen.bits_per_element.denominator * 8, block(chosen)) * 3000
    shape = (3001, columns)
    bits = Fraction(8 * chosen.footprint_bytes(shape), prod(shape))
    assert chosen.bits_per_element <= bits < chosen.bits_per_element * Fraction(102, 100)


@given(
    st.sampled_from(sorted(MIXES)),
    st.sampled_from(
        ["attention", "mlp", "experts", "head", "embeddings", "norms", "conv", "router", "other"]
    ),
    st.sampled_from(["v_proj", "o_proj", "down_proj", "fc1", "qkv"]),
    st.lists(st.integers(1, 600), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from([0, 8, 64]),
    st.booleans(),
)
def test_a_mix_always_finds_a_format_that_fits(
    name: str, kind: str, tensor: str, shape: list[int], layer: int, experts: int, tied: bool
) -> None:
    mix = MIXES[name]
    weight = Weight(
        "text", kind, f"x.{tensor}.weight", tuple(shape), layer=layer, layers=100, tied=tied, experts=experts
    )
    assume(kind == "experts" or len(shape) < 3 or kind == "conv")
    chosen = mix.format_of(weight)
    assert (
        footprint_bytes(chosen, weight.shape, kind) >= weight_elements(weight) * chosen.bits_per_element / 8
    )


def weight_elements(weight: Weight) -> int:
    return prod(weight.shape)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789_:=,²\n ", max_size=40))
def test_any_text_is_a_format_or_a_clear_error(text: str) -> None:
    with suppress(InputError):
        assert parse_weights(text).name
