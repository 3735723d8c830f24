"""Axes, files and chunks of sweeps."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tierline.errors import InputError
from tierline.search.axes import read_axes
from tierline.search.files import FileFormat
from tierline.search.sweep import Part, Question, run_here, sweep

pq = pytest.importorskip("pyarrow.parquet")


def values(option: str, text: str) -> list[object]:
    return list(read_axes({option: [text]}).axes[0].values)


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("batch", "1,7,3", [1, 7, 3]),
        ("context", "1024:9000:x2", [1024, 2048, 4096, 8192]),
        ("batch", "1:9:+4,64", [1, 5, 9, 64]),
        ("weights", "int8:group=64,scale=bf16,mxfp8:block=8", ["int8:group=64,scale=bf16", "mxfp8:block=8"]),
        ("overrides", "ddr3.sustained=1GB/s:4GB/s:x2", ["1GB/s", "2GB/s", "4GB/s"]),
        ("overrides", "pcie.gen=3:5:+1", ["3", "4", "5"]),
        ("hoist", "true,false", ["true", "false"]),
        ("parallel", "tp=2;tp=1,pp=2", ["tp=2", "tp=1,pp=2"]),
        ("capacity", "1GiB:2GiB:+0.5GiB", ["1GiB", "1.5GiB", "2GiB"]),
    ],
)  # fmt: skip
def test_values_of_an_axis(option: str, text: str, wanted: list[object]) -> None:
    assert values(option, text) == wanted


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("batch", "1:9"), ("batch", "x"), ("batch", ""), ("batch", "1,,2"), ("batch", "9:1:+1"),
        ("batch", "1:9:x1"), ("batch", "0:9:x2"), ("batch", "1:99999999999:+1"), ("batch", "1.5"),
        ("hoist", "yes"), ("overrides", "ddr3.sustained"), ("capacity", "1GiB:2GB:+1GiB"),
        ("nonsense", "1"), ("wrap", "1"), ("prefetch_depth", "many"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_read(option: str, text: str) -> None:
    with pytest.raises(InputError):
        read_axes({option: [text]})


def test_a_space_has_at_most_a_trillion_rows_and_each_axis_once() -> None:
    wide = {"batch": ["1:2000000:+1"], "context": ["1:2000000:+1"]}
    with pytest.raises(InputError, match="rows are more than"):
        read_axes(wide)
    with pytest.raises(InputError, match="twice"):
        read_axes({"overrides": ["pcie.gen=3", "pcie.gen=4"]})


GIVEN = {
    "model": ["smollm2-135m"],
    "on": ["nexys-video,nope"],
    "weights": ["bf16,mxfp8"],
    "batch": ["1:64:+1"],
    "context": ["16:6400:+16"],
}


@pytest.mark.parametrize("suffix", [pytest.param("csv", marks=pytest.mark.slow), "parquet"])
def test_a_sweep_that_ended_early_goes_on_and_is_as_if_it_had_not(tmp_path: Path, suffix: str) -> None:
    question = Question.of(GIVEN)
    assert len(question.chunks) > 3
    made: list[int] = []

    def ending_early(asked: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
        for part in run_here(asked, chunks, chosen):
            made.append(part[0])
            if len(made) == 2:
                return
            yield part
        raise AssertionError

    out, whole = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    with pytest.raises(FileNotFoundError):  # not all parts are there to be joined
        sweep(question, out, runner=ending_early)
    with pytest.raises(InputError, match="another sweep"):
        sweep(Question.of({**GIVEN, "batch": ["1:63:+1"]}), out)
    assert sweep(question, out) == question.chunk_rows
    sweep(question, whole)
    if suffix == "csv":
        assert out.read_bytes() == whole.read_bytes()
    assert not out.with_name(out.name + ".parts").exists()
    with pytest.raises(InputError, match="exists"):
        sweep(question, out)
    if suffix == "parquet":
        table = pq.read_table(out)
        assert table.equals(pq.read_table(whole))
        assert table["row"].to_pylist() == list(range(question.rows))
        assert table["fits"][0].as_py() is True
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["row"]) for row in rows] == list(range(question.rows))
        assert {row["reason"] for row in rows if row["on"] == "nope"} == {
            "no machine is called 'nope'; `tierline machines` lists them"
        }


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    question = Question.of({**GIVEN, "context": ["16:200:+16"]})
    for name in ("a.csv", "a.parquet"):
        sweep(question, tmp_path / name)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    with (tmp_path / "a.csv").open(newline="") as file:
        for row, written in zip(rows, csv.DictReader(file), strict=True):
            for name, cell in row.items():
                text = cell if isinstance(cell, str) else "" if cell is None else repr(cell)
                assert written[name] == (text.lower() if isinstance(cell, bool) else text)
