"""Bytes of single tensors, written out by hand, and the grammar of format names."""

import json
from fractions import Fraction
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from tierline.errors import InputError
from tierline.formats._generate import ggml_table, with_table
from tierline.formats.builders import BUILDERS
from tierline.formats.format import footprint_bytes
from tierline.formats.ggml import GgmlBlocks, ggml_blocks, ggml_type, ggml_types
from tierline.formats.mix import MIXES, Mix
from tierline.formats.parse import format_names, parse_format, parse_weights
from tierline.machines.sources import references

# A matrix of 7 rows of 131 elements: both prime, so that rows and columns cannot be mistaken for each other
# and no block divides a row.
ROWS, COLUMNS = 7, 131
BYTES = {
    "fp64": 7 * 131 * 8,
    "fp32": 7 * 131 * 4,
    "tf32": 7 * 131 * 4,
    "fp16": 7 * 131 * 2,
    "bf16": 7 * 131 * 2,
    "fp8": 7 * 131,
    "fp8_e5m2": 7 * 131,
    "fp8:tensor": 7 * 131 + 4,
    "fp8:channel": 7 * 131 + 7 * 4,
    "int8": 7 * 131,
    "int8:tensor": 7 * 131 + 4,
    "int8:channel": 7 * 131 + 7 * 4,
    "int8:channel,scale=fp16": 7 * 131 + 7 * 2,
    "int8:channel,zero=int": 7 * 131 + 7 * (4 + 1),
    "int8:group=128": 7 * (131 + 2 * 2),
    "int8:group=128,scale=fp32": 7 * (131 + 2 * 4),
    "int8:group=128,zero=float": 7 * (131 + 2 * 4),
    "int4": 7 * 66,
    "int4:group=64": 7 * (66 + 3 * 2),
    "int4:group=64,scale=bf16,zero=int": 7 * (66 + 8),  # 3 groups of 20 bits are 7.5 bytes
    "int2": 7 * 33,
    "int2:group=32,zero=int": 7 * (33 + 12),  # 5 groups of 18 bits are 11.25 bytes
    "ternary": 7 * 33 + 2,
    "ternary:dense": 7 * 27 + 2,
    "ternary:channel": 7 * (33 + 2),
    "ternary:dense,group=64": 7 * (27 + 3 * 2),
    "mxfp8": 7 * 5 * (32 + 1),
    "mxfp8:block=8": 7 * 17 * (8 + 1),
    "mxfp6": 7 * 5 * (24 + 1),
    "mxfp4": 7 * 5 * (16 + 1),
    "mxint8": 7 * 5 * (32 + 1),
    "nvfp4": 7 * 9 * (8 + 1) + 4,
    # qweight [17 words, 7], qzeros [2, 1 word], scales fp16 [2, 7], g_idx int32 [131]
    "gptq": 17 * 7 * 4 + 2 * 4 + 2 * 7 * 2 + 131 * 4,
    "gptq:bits=3,group=64": 13 * 7 * 4 + 3 * 4 + 3 * 7 * 2 + 131 * 4,
    # qweight [131, 1 word], qzeros [2, 1 word], scales fp16 [2, 7]
    "awq": 131 * 4 + 2 * 4 + 2 * 7 * 2,
    # 917 elements: 459 bytes, 15 blocks of 64, a table of 16 fp32
    "nf4": 459 + 15 * 4 + 64,
    "nf4:double": 459 + 15 + 4 + 64 + 1024 + 4,
    "fp4:block=128": 459 + 8 * 4 + 64,
}
BITS = {
    "tf32": 32,
    "int8:channel": 8,
    "int8:group=128": Fraction(65, 8),
    "int4:group=64,scale=bf16,zero=int": Fraction(69, 16),
    "ternary": 2,
    "ternary:dense": Fraction(8, 5),
    "mxfp8": Fraction(33, 4),
    "mxfp8:block=8": 9,
    "mxfp6": Fraction(25, 4),
    "mxfp4": Fraction(17, 4),
    "nvfp4": Fraction(9, 2),
    "gptq": Fraction(133, 32),
    "awq": Fraction(133, 32),
    "nf4": Fraction(9, 2),
    "nf4:double": Fraction(2113, 512),
    "q4_k": Fraction(9, 2),
    "q6_k": Fraction(105, 16),
    "q8_0": Fraction(17, 2),
    "tq1_0": Fraction(27, 16),
}


@pytest.mark.parametrize("name", BYTES)
def test_footprint_of_a_matrix_that_nothing_divides(name: str) -> None:
    assert parse_format(name).footprint_bytes((ROWS, COLUMNS)) == BYTES[name]


def test_every_name_has_a_footprint_written_by_hand() -> None:
    """So that a new format cannot come without a figure that was worked out apart from its code."""
    plain_integers = {"int64", "int32", "int16", "uint8", "bool", "fp8_e8m0"}
    assert {name.partition(":")[0] for name in BYTES} == set(BUILDERS) - plain_integers
    for name, size in {"int64": 8, "int32": 4, "int16": 2, "uint8": 1, "bool": 1, "fp8_e8m0": 1}.items():
        assert parse_format(name).footprint_bytes((ROWS, COLUMNS)) == ROWS * COLUMNS * size


@pytest.mark.parametrize("name", BITS)
def test_bits_per_element(name: str) -> None:
    assert parse_format(name).bits_per_element == BITS[name]


@pytest.mark.parametrize("name", BYTES)
def test_a_vector_is_one_row_and_a_kernel_has_a_row_per_output(name: str) -> None:
    chosen = parse_format(name)
    assert chosen.footprint_bytes((22,)) == chosen.footprint_bytes((1, 22))
    assert chosen.footprint_bytes((11, 3, 5, 7)) == chosen.footprint_bytes((11, 105))


@pytest.mark.parametrize("name", ["int8:tensor", "nvfp4", "gptq", "nf4:double", "mxfp4"])
def test_each_expert_is_a_matrix_of_its_own(name: str) -> None:
    chosen = parse_format(name)
    assert footprint_bytes(chosen, (5, 7, 131), "experts") == 5 * chosen.footprint_bytes((7, 131))
    assert footprint_bytes(chosen, (5, 7, 131), "conv") == chosen.footprint_bytes((5, 917))


def test_an_empty_tensor_takes_nothing_and_a_negative_dimension_is_refused() -> None:
    for name in BYTES:
        assert parse_format(name).footprint_bytes((0, COLUMNS)) == 0
    with pytest.raises(InputError, match="dimensions are 0 or more"):
        parse_format("fp32").footprint_bytes((-3, 5))


def test_ggml_types_are_those_of_the_installed_gguf() -> None:
    text = (files("tierline") / "data" / "ggml_types.json").read_text("utf-8")
    assert json.loads(text) == ggml_table(), (
        f"run python -m tierline.formats._generate (gguf {version('gguf')})"
    )


def test_the_page_on_formats_has_the_figures_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    assert page == with_table(page), "run python -m tierline.formats._generate"
    assert "| `mxfp8:block=8` | 9 | 18,874,368 | ocp-mx |" in page


def test_ggml_types_by_number() -> None:
    assert ggml_type(12) == parse_format("q4_k")
    assert ggml_type(30) == parse_format("bf16")
    assert ggml_type(39).name == "ggml_mxfp4"
    assert {parse_format(f.name) for f in ggml_types().values()} == set(ggml_types().values())
    with pytest.raises(InputError, match="unknown GGUF tensor type 4"):
        ggml_type(4)


@pytest.mark.parametrize("name", sorted(ggml_blocks()))
def test_ggml_rows_are_whole_blocks(name: str) -> None:
    blocks = parse_format(name)
    assert isinstance(blocks, GgmlBlocks)
    assert blocks.footprint_bytes((7, 3 * blocks.block_elements)) == 7 * 3 * blocks.block_bytes
    with pytest.raises(InputError, match=f"whole blocks of {blocks.block_elements} .* rows of {COLUMNS}"):
        blocks.footprint_bytes((ROWS, COLUMNS))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("f32", "fp32"),
        ("fp8_e4m3", "fp8"),
        ("f8_e5m2", "fp8_e5m2"),
        ("mxfp8:block=32", "mxfp8"),
        ("int4:zero=int,scale=fp16,group=64", "int4:group=64,zero=int"),
        ("int8:scale=fp32,channel", "int8:channel"),
        ("ternary:tensor,scale=bf16", "ternary"),
        ("gptq:group=128,bits=4", "gptq"),
        ("nf4:block=64,double", "nf4:double"),
    ],
)
def test_defaults_and_order_do_not_change_a_name(written: str, canonical: str) -> None:
    assert parse_format(written).name == canonical
    assert parse_format(written) == parse_format(canonical)
    assert hash(parse_format(written)) == hash(parse_format(canonical))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mxfp9", r"did you mean .*mxfp8"),
        ("MXFP8", r"did you mean .*mxfp8"),
        ("", "unknown format ''"),
        ("x" * 10_000, r"unknown format 'x{100}'"),
        ("fp16:block=8", r"no option block; it takes none"),
        ("q8_0:group=32", r"no option group; it takes none"),
        ("mxfp8:blok=8", r"no option blok; it takes block=N"),
        ("mxfp8:block=0", r"block=0: want a whole number, 1 to 1,048,576"),
        ("mxfp8:block=-8", r"block=-8: want a whole number"),
        ("mxfp8:block=²", r"want a whole number"),
        ("mxfp8:block=99999999999999999999", r"want a whole number"),
        ("mxfp8:block", r"block=: want a whole number"),
        ("mxfp8:block=8,block=8", r"cannot read the option 'block=8'"),
        ("mxfp8:block=8,", r"cannot read the option ''"),
        ("int4:group=64,scale=fp64", r"scale=fp64: want one of fp16, bf16, fp32"),
        ("int4:scale=fp16", r"scale= and zero= need tensor, channel or group="),
        ("int4:channel,group=64", r"exclude each other"),
        ("int8:channel=1", r"channel takes no value"),
        ("fp8:channel,zero=int", r"no option zero"),
        ("gptq:bits=5", r"bits=5: want one of 2, 3, 4, 8"),
        ("q4_k_m", r"chooses per tensor, so only --weights takes it"),
    ],
)
def test_a_bad_name_says_what_there_is(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_format(text)


def test_an_unknown_name_lists_all_names() -> None:
    with pytest.raises(InputError) as caught:
        parse_weights("mxfp9")
    words = str(caught.value).replace(",", " ").replace(";", " ").split()
    assert not set(format_names()) - set(words)
    assert not set(MIXES) - set(words)


def test_gguf_names_are_mixes_for_weights_and_blocks_for_one_tensor() -> None:
    assert isinstance(parse_weights("q8_0"), Mix)
    assert parse_weights("q4_k").name == "q4_k_m"
    assert isinstance(parse_format("q8_0"), GgmlBlocks)
    assert parse_weights("mxfp8:block=8") == parse_format("mxfp8:block=8")


def test_every_format_and_mix_has_a_source() -> None:
    sources = {parse_format(name).source for name in [*format_names(), *BYTES]} | {
        m.source for m in MIXES.values()
    }
    assert sources <= set(references())
    for key in sources:
        reference = references()[key]
        assert all(
            (reference.title, reference.address.startswith("https://"), reference.date, reference.sentence)
        )
