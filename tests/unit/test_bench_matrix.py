"""The matrix's bookkeeping: which cells, in which order, what is kept, and the figures worked out of rows."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in set(sys.modules) - before:
        if name == "capped" or name.partition(".")[0] == "matrix":
            del sys.modules[name]


def row(**changes: Any) -> dict[str, Any]:
    """A run of one of Tierline's cells, in primes: 1.5 s a token, of which the disk takes all."""
    engine = changes.get("engine", "tierline")
    result = {
        "tokens_per_s": 1 / 1.5, "disk_bytes_per_token": 1501.0, "read_bytes_per_token": 1499.0,
        "matrix_bytes": 2503, "reserved_bytes": 101, "staging_bytes": 31, "kv_bytes": 7,
        "planned_compute_s": 0.25, "projected_bytes": 1000, "measured_bytes": 997,
    }  # fmt: skip
    limits = {"oom_kills": 0, "others_cpu_fraction": 0.07, "peak_bytes": 1009}
    return {
        "key": "k", "model": "llama-3.2-1b", "engine": engine, "format": "bf16", "cap": 1.5, "disk": "2GB/s",
        "run": 0, "machine": "m", "date": "d", "load": 0.5, "read_ahead_kb": 8192, "memory_bytes": 1139,
        "disk_rates": {"alone_bytes_per_s": 1009.0, "beside_bf16_bytes_per_s": 907.0},
        "foretold": {"tokens_per_s": 0.7}, "plan": {"planned": {"tokens_per_s": 0.68,
        "read_bytes_per_token": 1499.0}, "simulated": {"tokens_per_s": 0.65}},
        "result": result, "limits": limits, "failure": None, **changes,
    }  # fmt: skip


def test_every_cell_comes_once_and_the_most_telling_first() -> None:
    from matrix.cells import CAPS, DISKS, FORMATS, MODELS, PEERS, Subset

    cells = Subset().cells()
    ours = len(MODELS) * len(DISKS) * len(CAPS) * len(FORMATS) * 3
    assert len(cells) == len(set(cells)) == ours + len(PEERS) * len(MODELS) * len(DISKS)
    assert [cell.run for cell in cells] == sorted(cell.run for cell in cells)
    first = cells[: len(FORMATS) + len(PEERS)]
    assert {(c.model, c.disk, c.cap) for c in first} == {("llama-3.2-1b", "2GB/s", 1.5)}
    few = Subset(models=("llama-3.2-3b",), engines=("airllm",), disks=("500MB/s",), caps=(1.1,))
    assert few.cells() == []


def test_a_killed_run_loses_only_the_line_it_wrote(tmp_path: Path) -> None:
    from matrix.results import Results

    results = Results(tmp_path / "kept" / "matrix.jsonl")
    assert results.rows() == []
    results.append(row(key="a"))
    with results.path.open("a", encoding="utf-8") as file:
        file.write('{"key": "b", "limi')
    results.append(row(key="c"))
    assert [r["key"] for r in results.rows()] == ["a", "c"]


def test_of_several_runs_of_a_cell_the_quietest_counts(tmp_path: Path) -> None:
    from matrix.results import Results

    results = Results(tmp_path / "matrix.jsonl")
    for others in (0.5, 0.11, 0.3):
        results.append(row(limits={**row()["limits"], "others_cpu_fraction": others}))
    assert results.best()["k"]["limits"]["others_cpu_fraction"] == 0.11
    assert (results.done(0.2), results.done(0.1)) == ({"k"}, set())


def test_floor_is_what_does_not_fit_over_the_disk() -> None:
    from matrix.figures import Group

    group = Group([row()])
    held = 1139 - 101 - 31 - 7
    assert group.floor_fraction() == pytest.approx((2503 - held) / 907 / 1.5)
    assert group.floor_fraction(alone=True) == pytest.approx((2503 - held) / 1009 / 1.5)
    slow = row(result={**row()["result"], "planned_compute_s": 3.0})
    assert Group([slow]).floor_fraction() == pytest.approx(2.0)


def test_errors_are_of_the_measured() -> None:
    from matrix.figures import Group, accuracy

    found = accuracy([Group([row(), row(run=1)]), Group([row(engine="airllm")])])
    expected = {"foretold": 0.7 * 1.5 - 1, "planned": 0.68 * 1.5 - 1, "simulated": 0.65 * 1.5 - 1}
    assert {name: errors[0] for name, errors in found.items()} == pytest.approx(expected)
    assert all(len(errors) == 2 for errors in found.values())


def test_a_cell_that_misses_is_named() -> None:
    from matrix.figures import grouped
    from matrix.targets import misses

    faster = row(engine="accelerate offload", result={"tokens_per_s": 0.9, "disk_bytes_per_token": 1.0})
    found = "\n".join(misses(grouped([row(), faster])))
    assert "accelerate offload is faster: 0.90 against 0.67 tok/s" in found
    assert "predicted" not in found
    late = row(plan={"planned": {"tokens_per_s": 0.9, "read_bytes_per_token": 1600.0}})
    late["result"] = {**late["result"], "measured_bytes": 1001, "reserved_bytes": 401 * 2**20}
    found = "\n".join(misses(grouped([late])))
    for part in ("+35.0% off", "bytes per token more", "100.1% of the projected", "reserve 401 MiB"):
        assert part in found


def test_the_page_has_a_row_for_every_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matrix.render as render

    (tmp_path / "README.md").write_text(f"before\n{render._BEGIN}\nold\n{render._END}\nafter\n", "utf-8")
    monkeypatch.setattr(render, "_VALIDATION", tmp_path / "validation.md")
    monkeypatch.setattr(render, "_README", tmp_path / "README.md")
    killed = {**row()["limits"], "oom_kills": 1}
    rows = [
        row(), row(run=1), row(cap=3.0, result={"refused": "too little"}, plan=None),
        row(engine="llama.cpp no mmap", format="q8_0", result=None, plan=None, foretold=None,
            failure="killed: out of memory", limits=killed),
    ]  # fmt: skip
    render.write_documents(json.loads(json.dumps(rows)))
    page, readme = ((tmp_path / name).read_text("utf-8") for name in ("validation.md", "README.md"))
    assert "| bf16 | 1.5 | 1.1 KiB | 2GB/s | 0.67 (0.67 to 0.67) | +5.0% | +2.0% | -2.5% |" in page
    assert "below minimum" in page
    assert "| llama.cpp no mmap | q8_0 | 1.1 KiB | 2GB/s | killed: out of memory | - |" in page
    assert "old" not in readme
    assert "| Tierline | bf16 | 0.67 |" in readme
    assert readme.endswith("after\n")


def test_what_is_foretold_follows_from_bytes_and_rates() -> None:
    from matrix.foretell import Known, foretell

    from tierline.run.staging import READERS
    from tierline.run.tiles import tile_limit

    mib = 2**20
    known = Known(matrix_bytes=997 * mib, row_bytes=13, besides_bytes=307 * mib, compute_s=0.11)
    disk = {"alone_bytes_per_s": 401.0 * mib, "beside_int8_bytes_per_s": 307.0 * mib}
    found = foretell(known, 709 * mib, disk, "int8")
    room = (709 - 307) * mib
    read = 997 * mib - (room - (READERS + 1) * tile_limit(room)) + 13
    assert found.read_bytes_per_token == read
    assert found.tokens_per_s == pytest.approx(1 / (0.11 + (read - 307 * mib * 0.11) / (401 * mib)))
    assert foretell(known, 307 * mib, disk, "int8").tokens_per_s is None
