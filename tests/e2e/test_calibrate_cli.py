"""`tierline calibrate` with real, tiny measurements: the file, `--on`, bad input, and being interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tierline.calibrate.budget import QUICK
from tierline.calibrate.calibrate import Found, measure
from tierline.calibrate.write import machine_table, provenance, save, to_toml
from tierline.machines.calibration import read_settings
from tierline.machines.document import numbers
from tierline.machines.load import load_machine
from tierline.machines.machine import Machine
from tierline.run.measure_compute import ComputeBench, engine_formats
from tierline.units import KIB, MIB

TINY = replace(
    QUICK,
    request_bytes=(16 * KIB, 64 * KIB),
    readers=(1, 2),
    read_s=0.002,
    limited_sample_s=0.002,
    longest_sample_s=60.0,
    chosen_s=0.002,
    reads_limit_s=60.0,
    file_bytes=MIB,
    fill_s=0.0,
    matrix_rows=64,
    columns=256,
    compute_s=0.0,
    memory_s=0.001,
    compute_limit_s=60.0,
    least_arena_bytes=4 * MIB,
    rounds=2,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tierline.calibrate.memory._CACHES", folder)  # no caches to outgrow: a small arena
        told: list[tuple[str, float, float]] = []
        source = provenance(folder)
        found: Found = measure(folder, TINY, source, lambda *a: told.append(a))
    assert list(folder.iterdir()) == []
    assert {what.partition(":")[0] for what, _, _ in told} >= {"disk", "disk beside products", "compute"}
    assert all(done_s >= 0 and left_s >= 0 for _, done_s, left_s in told)
    path = folder / "mine.toml"
    save(to_toml(machine_table(found, folder, source, [])), path)
    return path


@pytest.fixture
def machine(written: Path) -> Machine:
    return load_machine(str(written))


def test_every_number_is_measured_with_source_and_date(machine: Machine) -> None:
    assert machine.calibration is not None
    figures = [figure for _, _, figure in machine.calibration.figures()]
    pairs = [number for figure in figures for number in (figure.alone, figure.overlapped)]
    for number in [*(n for _, n in numbers(machine)), *pairs]:
        assert number is not None
        assert number.kind == "measured"
        assert re.search(r"calibrate, \d{4}-\d\d-\d\d, ", number.source)
        assert number.value > 0
    for number in pairs:
        assert number is not None
        assert number.spread is not None
        assert number.spread >= 0


def test_every_format_and_shape_that_the_engine_has_is_there(machine: Machine) -> None:
    calibration = machine.calibration
    assert calibration is not None
    wanted = {(f.stored, f.compute, n) for f in engine_formats() for n in TINY.batch_rows}
    assert {(p.format, p.compute, p.rows) for p in calibration.products} == wanted
    assert {"fp32", "bf16", "fp16", "q4_0", "q4_1", "q8_0"} <= {p.format for p in calibration.products}
    assert any(p.format.startswith("int8:channel") for p in calibration.products)
    assert any(p.format.startswith("int4:group=32") for p in calibration.products)
    assert {e.format for e in calibration.expansions} == {f.stored for f in engine_formats() if f.expands}
    settings = {(r.request_bytes, r.readers) for r in calibration.reads}
    assert settings == {(b, n) for b in TINY.request_bytes for n in TINY.readers}
    assert read_settings(machine) in settings
    assert calibration.call is not None
    assert calibration.memory_copy is not None


def test_plans_use_its_rates(machine: Machine) -> None:
    calibration = machine.calibration
    assert calibration is not None
    assert calibration.memory_read is not None
    assert machine.fast.rate is not None
    assert machine.fast.rate.value == calibration.memory_read.alone.value
    widest = {
        p.format: p.rate.alone.value for p in calibration.products if p.rows == 128 and p.format == p.compute
    }
    rates = {fmt: rate.value for fmt, rate in machine.compute[0].flop_per_s.items()}
    assert rates == {fmt: widest[fmt] for fmt in ("fp32", "fp16", "bf16")}


def test_products_of_a_bench_take_the_next_matrix_each_time() -> None:
    clock = iter(range(10_000))
    bench = ComputeBench(memoryview(bytearray(64 * KIB)), rows=16, columns=256, clock=lambda: next(clock))
    fp32 = engine_formats()[0]
    sample = bench.product(fp32, 3)
    # Virtual seconds: one tick for each look at the clock, so products come one per tick.
    assert sample(8.0) == 2 * 3 * 16 * 256 * 7 / 8
    assert bench.expansion(fp32)(8.0) == 4 * 16 * 256 * 7 / 8


def tierline(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tierline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )


def test_a_calibration_in_the_cache_is_this(written: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tierline.machines.calibrated import calibration_file, kept_folder\n"
        "print(calibration_file(kept_folder()))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    Path(found.stdout.strip()).write_bytes(written.read_bytes())
    done = tierline("plan", "smollm2-135m", "--on", "this", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "measuring" not in done.stderr
    decode = next(p for p in json.loads(done.stdout)["phases"] if p["name"] == "decode")
    assert decode["time_s"] > 0
    assert not any("compute rate is known" in note for note in json.loads(done.stdout).get("notes", []))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder"], "no such file or directory"),
        (["-o", "no/such/folder/x.toml"], "there is no folder"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = tierline("calibrate", *arguments, cache=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_interrupted_it_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    target, cache = tmp_path / "disk", tmp_path / "cache"
    target.mkdir()
    with tempfile.TemporaryFile() as err:
        command = [sys.executable, "-m", "tierline", "calibrate", str(target), "--quick"]
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=err, env={**os.environ, "XDG_CACHE_HOME": str(cache)}
        )
        deadline = time.monotonic() + 90
        said = b""
        while b"calibrate: disk" not in said and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
            said = os.pread(err.fileno(), 10_000, 0)
        assert b"calibrate: disk" in said, said
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert b"Traceback" not in os.pread(err.fileno(), 10_000, 0)
    assert list(target.iterdir()) == []
    assert [p for p in cache.rglob("*") if p.is_file()] == []
