"""The safetensors header reader against the safetensors library, and against files that lie."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tierline.errors import InputError
from tierline.models.safetensors_header import read_safetensors, read_safetensors_index


def write(path: Path, header: object, data_bytes: int = 0) -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + b"\0" * data_bytes)
    return path


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_names_shapes_and_bytes_are_those_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "a": np.arange(35, dtype=np.float32).reshape(5, 7),
        "b": np.arange(11, dtype=np.float16),
        "c": np.arange(13, dtype=np.int8),
        "scalar": np.array(3.0, dtype=np.float64),
        "none": np.zeros((0, 3), dtype=np.float32),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    checkpoint = read_safetensors(path)
    assert {n: t.format for n, t in checkpoint.tensors.items()} == {
        "a": "fp32", "b": "fp16", "c": "int8", "scalar": "fp64", "none": "fp32",
    }  # fmt: skip
    content = path.read_bytes()
    with safe_open(path, framework="numpy") as oracle:
        assert set(checkpoint.tensors) == set(oracle.keys())
        for name, tensor in checkpoint.tensors.items():
            expected = oracle.get_tensor(name)
            assert tensor.shape == expected.shape
            assert content[tensor.offset : tensor.offset + tensor.footprint_bytes] == expected.tobytes()
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.footprint_bytes == sum(a.nbytes for a in arrays.values())


HOSTILE = {
    "outside": ({"a": entry([5], 0, 20)}, 19, "ends at byte"),
    "overlap": ({"a": entry([5], 0, 20), "b": entry([3], 16, 28)}, 28, "overlap"),
    "wrong length": ({"a": entry([5], 0, 24)}, 24, "takes 20 bytes, but its offsets span 24"),
    "backwards": ({"a": entry([5], 20, 0)}, 20, "start <= end"),
    "negative": ({"a": entry([-5], 0, 20)}, 20, "from 0 to 2^60"),
    "fraction": ({"a": entry([2.5], 0, 20)}, 20, "whole numbers"),  # type: ignore[list-item]
    "true": ({"a": entry([True], 0, 4)}, 4, "whole numbers"),
    "huge product": ({"a": entry([2**40, 2**40], 0, 20)}, 20, "more than 2^60 elements"),
    "huge elements": ({"a": entry([2**60], 0, 2**62)}, 20, "2^60"),
    "many dimensions": ({"a": entry([1] * 9, 0, 4)}, 4, "at most 8"),
    "dtype": ({"a": entry([5], 0, 20, "Q7")}, 20, "dtype is 'Q7'"),
    "no object": ({"a": 3}, 0, "want an object"),
    "list": ([1], 0, "want a JSON object"),
    "not json": (b'{"a"', 0, "not valid JSON"),
    "not utf-8": (b'{"\xff": 1}', 0, "not valid JSON"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "not valid JSON"),
    "twice": (b'{"a": {}, "a": {}}', 0, "twice"),
}


@pytest.mark.parametrize(("header", "data_bytes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_cannot_be_true_is_refused(
    tmp_path: Path, header: object, data_bytes: int, message: str
) -> None:
    path = write(tmp_path / "x.safetensors", header, data_bytes)
    with pytest.raises(InputError, match=message.replace("^", r"\^")) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


def test_a_header_of_2_to_the_60_bytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"1,152,921,504,606,846,976 bytes in a file of 10"):
        read_safetensors(path)
    assert time.perf_counter() - start < 1


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.int8)}, path)
    whole = path.read_bytes()
    read_safetensors(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_safetensors(path)


def shards(directory: Path, weight_map: dict[str, object]) -> Path:
    save_file({"a": np.zeros(3, np.float32)}, directory / "one.safetensors")
    save_file({"b": np.zeros(5, np.float32), "c": np.zeros(7, np.float32)}, directory / "two.safetensors")
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def test_an_index_gathers_its_shards(tmp_path: Path) -> None:
    index = shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    checkpoint = read_safetensors_index(index)
    assert {n: t.path.name for n, t in checkpoint.tensors.items()} == {
        "a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors",
    }  # fmt: skip
    assert [p.name for p in checkpoint.files] == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../one.safetensors", "plain name"),
        ("/etc/one.safetensors", "plain name"),
        ("sub/one.safetensors", "plain name"),
        ("..", "plain name"),
        (".safetensors", "plain name"),
        ("one.bin", "plain name"),
        (3, "plain name"),
        ("three.safetensors", "no such file"),
        ("two.safetensors", "is not in two.safetensors"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, shard: object, message: str) -> None:
    (tmp_path / "d").mkdir()
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "one.safetensors")
    index = shards(tmp_path / "d", {"a": shard})
    with pytest.raises(InputError, match=message):
        read_safetensors_index(index)
