"""Calibrations in machine files: read, shown, chosen from, kept for `this`, and hostile ones refused."""

import json
import os
from pathlib import Path

import pytest

from tierline.cli.main import main
from tierline.errors import InputError
from tierline.machines.calibrated import calibration_file, read_calibrated
from tierline.machines.calibration import DEFAULT_READ_SETTINGS, read_settings
from tierline.machines.cgroups import read_limit
from tierline.machines.document import document
from tierline.machines.load import load_calibrated, load_machine
from tierline.machines.memory import read_memory

_NUMBER = '{{ value = "{}", spread = {}, kind = "measured", source = "bench, 2026-11-22" }}'
_DRAM = '[tiers.dram]\ncapacity = { value = "8GiB", kind = "measured", source = "s" }\n'


def number(value: str, spread: float = 0.0) -> str:
    return _NUMBER.format(value, spread)


def read(request: str, readers: int, alone: str, overlapped: str | None = None) -> str:
    both = f"alone = {number(alone)}\n" + (f"overlapped = {number(overlapped)}\n" if overlapped else "")
    return f'[[calibration.reads]]\nrequest = "{request}"\nreaders = {readers}\n{both}'


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(_DRAM + text)
    return path


def test_every_figure_is_read_in_base_units(tmp_path: Path) -> None:
    text = (
        f"[calibration]\nmemory_read = {{ alone = {number('7GB/s', 0.125)} }}\n"
        f"call = {{ alone = {number('13us')}, overlapped = {number('17us')} }}\n"
        + read("4MiB", 2, "1.9GB/s", "1.7GB/s")
        + '[[calibration.products]]\nformat = "q4_1"\ncompute = "fp32"\nrows = 16\n'
        + f"alone = {number('3.1GFLOP/s')}\n"
        + '[[calibration.expansions]]\nformat = "q4_1"\ncompute = "fp32"\n'
        + f"alone = {number('1.3GB/s')}\n"
    )
    machine = load_machine(str(written(tmp_path, text)))
    found = machine.calibration
    assert found is not None
    assert found.memory_read is not None
    assert (found.memory_read.alone.value, found.memory_read.alone.spread) == (7e9, 0.125)
    assert found.memory_copy is None
    assert found.call is not None
    assert found.call.overlapped is not None
    assert found.call.overlapped.value == pytest.approx(17e-6)
    assert (found.reads[0].request_bytes, found.reads[0].readers) == (4 * 2**20, 2)
    assert (found.products[0].rows, found.products[0].rate.alone.value) == (16, 3.1e9)
    shown = json.loads(json.dumps(document(machine)))["calibration"]
    assert shown["reads"][0]["bytes_per_s"]["overlapped"]["value"] == 1.7e9
    assert shown["memory_read_bytes_per_s"]["alone"]["spread"] == 0.125
    assert shown["expansions"][0]["bytes_per_s"]["overlapped"] is None


def test_machines_shows_the_figures_with_their_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path, read("1MiB", 4, "1.9GB/s") + f"[calibration.call]\nalone = {number('9us', 0.031)}"
    )
    with pytest.raises(SystemExit):
        main(["machines", str(path)])
    out = capsys.readouterr().out
    assert "disk read, 1024 KiB x 4" in out
    assert "1.90 GB/s" in out
    assert "3.1%" in out


def test_the_chosen_read_holds_least_memory_within_3_percent_of_the_fastest_beside_compute(
    tmp_path: Path,
) -> None:
    text = (
        read("16MiB", 4, "2.00GB/s", "2.00GB/s")
        + read("1MiB", 4, "2.00GB/s", "1.95GB/s")
        + read("4MiB", 1, "1.00GB/s", "1.97GB/s")
        + read("256KiB", 1, "2.00GB/s", "1.93GB/s")
    )
    # 1 MiB x 4 and 4 MiB x 1 hold the same and are as good: fewer readers win. 256 KiB is 3.5 % slower.
    assert read_settings(load_machine(str(written(tmp_path, text)))) == (4 * 2**20, 1)


def test_without_a_calibration_reads_are_as_this_computer_is_measured() -> None:
    assert read_settings(load_machine("nexys-video")) == DEFAULT_READ_SETTINGS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("calibration = 1\n", "has to be a table"),
        ("[calibration]\nspeed = 1\n", "unknown key 'speed'"),
        ("[calibration]\nreads = 1\n", "at most 1024"),
        ("[calibration]\ncall = {}\n", "no figure alone"),
        (read("4MiB", 0, "1GB/s"), "readers"),
        (read("4", 1, "1GB/s"), "not a number of bytes"),
        (read("4MiB", 1, "1s"), "not a rate"),
        (read("4MiB", 1, "1GB/s").replace("0.0", "-0.1"), "spread"),
        (read("4MiB", 1, "1GB/s").replace("0.0", "true"), "spread"),
        (read("4MiB", 1, "1GB/s").replace("0.0", "nan"), "spread"),
        (read("4MiB", 1, "1GB/s").replace("measured", "guessed"), "kind"),
        ("[[calibration.expansions]]\ncompute = 'fp32'\nalone = " + number("1GB/s"), "format is missing"),
        ("[calibration]\nreads = [" + "{}," * 1025 + "]\n", "at most 1024"),
    ],
)
def test_a_bad_calibration_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + _DRAM if text.startswith("calibration =") else _DRAM + text)
    with pytest.raises(InputError, match=message) as raised:
        load_machine(str(path))
    assert str(path) in str(raised.value)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the calibration of the disk that holds the cache is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tierline").mkdir()
    return calibration_file(tmp_path)


def test_this_is_what_was_calibrated_with_the_capacities_of_now(kept: Path) -> None:
    kept.write_text(
        _DRAM.replace("8GiB", "1B")
        + f"sustained = {number('7GB/s')}\n"
        + f'[links.disk]\nfrom = "storage"\nto = "dram"\nsustained = {number("3GB/s")}\n'
        + f"[compute.cpu.fp32]\nsustained = {number('101GFLOP/s')}\n"
        + read("2MiB", 2, "3GB/s")
    )
    machine = load_machine("this")
    assert load_calibrated(kept) is not None
    assert machine.fast.capacity_bytes.value == read_memory().capacity_bytes
    assert machine.fast.rate is not None
    assert machine.fast.rate.value == 7e9
    assert machine.link("disk").rate.value == 3e9
    assert machine.compute[0].flop_per_s["fp32"].value == 101e9
    assert read_settings(machine) == (2 * 2**20, 2)


@pytest.mark.parametrize("text", ["", "nonsense", "\xff", _DRAM, _DRAM + "[calibration]\nspeed = 1\n"])
def test_a_kept_file_that_is_no_calibration_is_not_used(kept: Path, tmp_path: Path, text: str) -> None:
    kept.write_bytes(text.encode("latin-1"))
    assert read_calibrated(tmp_path) is None
    assert load_calibrated(tmp_path) is None
    assert [p.name for p in kept.parent.iterdir()] == [kept.name]  # nothing was measured instead


def _limited(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _disk(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def test_the_lowest_limit_on_our_disk_counts(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    v1 = {
        "blkio/a/b/blkio.throttle.read_bps_device": f"999:0 7\n{disk} 1999993\n",
        "blkio/a/blkio.throttle.read_bps_device": f"{disk} 2999999\n",
    }
    assert read_limit(tmp_path, _limited(tmp_path / "v1", "5:cpu,blkio:/a/b\n", {})) is None
    assert read_limit(tmp_path, _limited(tmp_path / "one", "5:blkio:/a/b\n", v1)) == 1_999_993
    v2 = {"a/io.max": f"{disk} rbps=3999971 wbps=max riops=7 wiops=max\n", "io.max": f"{disk} rbps=max\n"}
    assert read_limit(tmp_path, _limited(tmp_path / "two", "0::/a\n", v2)) == 3_999_971


def test_limits_are_those_of_the_whole_disk_of_a_partition(tmp_path: Path) -> None:
    root = _limited(tmp_path / "root", "0::/\n", {"io.max": "259:0 rbps=499979\n"})
    partition = root / "sys/dev/block" / _disk(tmp_path)
    real = root / "sys/devices/nvme0n1/nvme0n1p1"
    real.mkdir(parents=True)
    (real / "partition").write_text("1\n")
    (real.parent / "dev").write_text("259:0\n")
    partition.parent.mkdir(parents=True)
    partition.symlink_to(real)
    assert read_limit(tmp_path, root) == 499_979
