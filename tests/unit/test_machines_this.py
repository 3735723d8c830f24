"""This computer: what the kernel's files say, the measurements, and the cache of them."""

import json
import os
import time
from pathlib import Path

import pytest

from tierline.errors import InputError
from tierline.machines import this
from tierline.machines.load import load_machine
from tierline.machines.measure import DiskRate, measure_disk, measure_memory
from tierline.machines.memory import read_memory
from tierline.units import GIB, MIB

_MEMINFO = "MemTotal: 8388608 kB\nMemFree: 1048576 kB\nMemAvailable: 4194304 kB\nCached: 2097152 kB\n"


def _root(folder: Path, cgroup: str = "0::/\n", files: dict[str, str] | None = None) -> Path:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(_MEMINFO)
    (folder / "proc/self/cgroup").write_text(cgroup)
    for name, text in (files or {}).items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_without_a_limit_the_kernel_decides(tmp_path: Path) -> None:
    memory = read_memory(_root(tmp_path, files={"memory.max": "max\n"}))
    assert (memory.capacity_bytes, memory.free_bytes) == (8 * GIB, 4 * GIB)
    assert "MemTotal" in memory.limited_by


def test_a_cgroup_v2_limit_counts_with_what_can_be_reclaimed(tmp_path: Path) -> None:
    files = {
        "app/run/memory.max": str(3 * GIB),
        "app/run/memory.current": str(2 * GIB),
        "app/run/memory.stat": f"anon 7\ninactive_file {GIB // 2}\nactive_file {GIB}\n",
    }
    memory = read_memory(_root(tmp_path, "0::/app/run\n", files))
    assert memory.capacity_bytes == 3 * GIB
    assert memory.free_bytes == 3 * GIB - 2 * GIB + GIB // 2
    assert "cgroup" in memory.limited_by


def test_a_limit_above_ours_binds_too(tmp_path: Path) -> None:
    files = {"app/memory.max": str(GIB), "app/memory.current": "0", "app/run/memory.max": str(2 * GIB)}
    assert read_memory(_root(tmp_path, "0::/app/run\n", files)).capacity_bytes == GIB


def test_a_cgroup_v1_limit_is_found_at_the_mount_of_a_container(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "memory/memory.usage_in_bytes": str(5 * GIB),
        "memory/memory.stat": f"inactive_file 3\ntotal_inactive_file {MIB}\n",
    }
    memory = read_memory(_root(tmp_path, "4:memory:/docker/abc\n3:cpuset:/\n", files))
    assert memory.capacity_bytes == 2 * GIB
    assert memory.free_bytes == 0  # the usage is above the limit


def test_a_huge_v1_limit_is_no_limit(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": "9223372036854771712"}
    assert read_memory(_root(tmp_path, "4:memory:/\n", files)).capacity_bytes == 8 * GIB


def test_this_computer_agrees_with_the_kernel() -> None:
    memory = read_memory()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free_bytes <= memory.capacity_bytes <= pages


def test_the_disk_is_read_once_and_left_clean(tmp_path: Path) -> None:
    rate = measure_disk(tmp_path)
    assert 1e6 < rate.bytes_per_s < 1e12
    assert list(tmp_path.iterdir()) == []


def test_every_request_of_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(41 * MIB))
    offsets: list[int] = []
    read = os.preadv

    def counting(handle: int, buffers: list[memoryview], offset: int) -> int:
        offsets.append(offset)
        return read(handle, buffers, offset)

    monkeypatch.setattr("tierline.machines.measure.os.preadv", counting)
    measure_disk(path)
    assert sorted(offsets) == list(range(0, 40 * MIB, 4 * MIB))


def test_where_o_direct_is_refused_reads_are_buffered_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr("tierline.machines.measure.os.open", refusing)
    assert not measure_disk(tmp_path).direct


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot measure this disk"):
        measure_disk(tmp_path / "absent" / "file")


def test_memory_is_read_at_a_rate_that_memories_have() -> None:
    assert 1e8 < measure_memory(1 * GIB) < 1e13


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tierline"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the measurements by known rates and count them."""
    calls: list[str] = []

    def disk(_path: Path) -> DiskRate:
        calls.append("disk")
        return DiskRate(1_999_993.0, direct=False)

    monkeypatch.setattr(this, "measure_disk", disk)
    monkeypatch.setattr(this, "measure_memory", lambda _free: 7_000_003.0)
    return calls


@pytest.mark.usefixtures("cache")
def test_rates_are_measured_once_and_kept(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = load_machine("this")
    assert "measuring this computer" in capsys.readouterr().err
    start = time.perf_counter()
    again = load_machine("this")
    assert time.perf_counter() - start < 0.5
    assert measured == ["disk"]
    assert capsys.readouterr().err == ""
    for machine in (first, again):
        assert machine.link("disk").rate.value == 1_999_993
        assert machine.fast.rate is not None
        assert machine.fast.rate.value == 7_000_003
        assert machine.fast.free_bytes is not None
        assert any("O_DIRECT" in note for note in machine.notes)
        sustained = machine.link("disk").rate.sustained
        assert sustained is not None
        assert sustained.kind == "measured"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"date": "d", "direct": true, "disk_bytes_per_s": -1, "memory_bytes_per_s": 5}',
        '{"date": "d", "direct": true, "disk_bytes_per_s": NaN, "memory_bytes_per_s": 5}',
        '{"date": "d", "direct": true, "disk_bytes_per_s": true, "memory_bytes_per_s": 5}',
        "[" * 4000,
    ],
)
def test_a_cache_that_is_not_ours_is_measured_anew(cache: Path, measured: list[str], text: str) -> None:
    load_machine("this")
    (file,) = cache.iterdir()
    file.write_text(text)
    assert load_machine("this").link("disk").rate.value == 1_999_993
    assert measured == ["disk", "disk"]
    assert json.loads(file.read_text())["disk_bytes_per_s"] == 1_999_993


@pytest.mark.usefixtures("cache")
def test_a_card_can_sit_in_this_computer(measured: list[str]) -> None:
    machine = load_machine("nexys-video+this", ["host.capacity=3GiB"])
    assert [tier.name for tier in machine.tiers] == ["ddr3", "bram", "host", "storage"]
    assert machine.tier("host").capacity_bytes.value == 3 * GIB
    assert machine.link("disk").target == "host"
    assert measured == ["disk"]
