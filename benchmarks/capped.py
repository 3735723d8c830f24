"""Run a command under real limits (cgroup v1): memory of the process and its page cache, and disk rate.

Example: python benchmarks/capped.py --memory 1.2GiB --disk 500MB/s -- tierline run MODEL "Hi" --memory 1.2GiB

Prints what the command prints; then, on stderr, one JSON line: exit code, peak memory of the cgroup, bytes
and reads of the disk, OOM kills, seconds. Needs root; the page cache is dropped first, since cached pages are
charged to whoever touched them first.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tierline.units import parse_bytes, parse_rate

_ROOT = Path("/sys/fs/cgroup")
_SHARES = 262144  # of the CPU, so that other work on the computer disturbs the command least
_KINDS = ("memory", "blkio", "cpu", "cpuacct")
# Told to the command in its environment, for engines that count what they read token by token.
COUNTER, DISK = "CAPPED_COUNTER", "CAPPED_DISK"


@dataclass(frozen=True, slots=True)
class CappedRun:
    """What a command took under its limits, in bytes and seconds; None means that there was no limit.

    `others_cpu_fraction` is the part of all cores that other work took meanwhile. A command that was ended
    because its time was over has `timed_out`.
    """

    memory_limit_bytes: int | None
    disk_limit_bytes_per_s: float | None
    exit_code: int
    wall_s: float
    peak_bytes: int
    read_bytes: int
    reads: int
    oom_kills: int
    others_cpu_fraction: float
    timed_out: bool


def disk_of(path: Path) -> str:
    """Return the `major:minor` of the whole disk that holds `path`."""
    number = path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    whole = device.resolve()
    if (whole / "partition").exists():
        whole = whole.parent
    return (whole / "dev").read_text(encoding="ascii").strip()


def run_capped(
    command: Sequence[str],
    *,
    memory_bytes: int | None,
    disk_bytes_per_s: float | None,
    disk: str,
    timeout_s: float | None = None,
) -> CappedRun:
    """Run `command` in fresh cgroups with the limits given and return what it took.

    Raises PermissionError without root.
    """
    name = f"tierline_{os.getpid()}_{time.monotonic_ns()}"
    groups = {kind: _ROOT / kind / name for kind in _KINDS if (_ROOT / kind).is_dir()}
    for group in groups.values():
        group.mkdir(exist_ok=True)  # cpu and cpuacct may be one
    try:
        _limit(groups, memory_bytes, disk_bytes_per_s, disk)
        started_s, busy_s = time.perf_counter(), _busy_s()
        exit_code, timed_out = _wait(command, name, groups["blkio"], disk, timeout_s)
        wall_s = time.perf_counter() - started_s
        others_s = _busy_s() - busy_s - _used_s(groups)
        return CappedRun(
            memory_limit_bytes=memory_bytes,
            disk_limit_bytes_per_s=disk_bytes_per_s,
            exit_code=exit_code,
            wall_s=wall_s,
            peak_bytes=int((groups["memory"] / "memory.max_usage_in_bytes").read_text(encoding="ascii")),
            read_bytes=_counter(groups["blkio"] / "blkio.throttle.io_service_bytes", disk),
            reads=_counter(groups["blkio"] / "blkio.throttle.io_serviced", disk),
            oom_kills=_oom_kills(groups["memory"]),
            others_cpu_fraction=max(0.0, others_s) / wall_s / (os.cpu_count() or 1),
            timed_out=timed_out,
        )
    finally:
        for group in groups.values():
            _remove(group)


def _wait(
    command: Sequence[str], name: str, blkio: Path, disk: str, timeout_s: float | None
) -> tuple[int, bool]:
    """Return the exit code of `command` in the cgroups called `name`, and whether its time was over."""
    environment = os.environ | {COUNTER: str(blkio / "blkio.throttle.io_service_bytes"), DISK: disk}
    joining = [sys.executable, __file__, "--join", name, "--", *command]
    # One that thrashes reads for ever: it must not outlive us, however we are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with subprocess.Popen(joining, env=environment, start_new_session=True) as process:
        try:
            return process.wait(timeout_s), False
        except BaseException as end:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(end, subprocess.TimeoutExpired):
                raise
            return process.wait(), True


def _limit(groups: dict[str, Path], memory_bytes: int | None, rate: float | None, disk: str) -> None:
    if memory_bytes is not None:
        (groups["memory"] / "memory.limit_in_bytes").write_text(str(memory_bytes), encoding="ascii")
    (groups["memory"] / "memory.swappiness").write_text("0", encoding="ascii")
    if rate is not None:
        throttle = groups["blkio"] / "blkio.throttle.read_bps_device"
        throttle.write_text(f"{disk} {round(rate)}", encoding="ascii")
    (groups["cpu"] / "cpu.shares").write_text(str(_SHARES), encoding="ascii")
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def _join(name: str, command: Sequence[str]) -> None:
    """Enter the cgroups called `name` and become `command`."""
    for kind in (kind for kind in _KINDS if (_ROOT / kind).is_dir()):
        (_ROOT / kind / name / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    os.execvp(command[0], list(command))  # noqa: S606 - the command that the user gave


def _busy_s() -> float:
    """Return the seconds that all cores together have worked so far."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, *interrupts = map(int, fields[:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _used_s(groups: dict[str, Path]) -> float:
    usage = groups.get("cpuacct", groups["cpu"]) / "cpuacct.usage"
    return int(usage.read_text(encoding="ascii")) / 1e9 if usage.exists() else 0.0


def _counter(file: Path, disk: str) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        fields = line.split()
        if fields[:2] == [disk, "Read"]:
            return int(fields[2])
    return 0


def _oom_kills(group: Path) -> int:
    lines = (group / "memory.oom_control").read_text(encoding="ascii").splitlines()
    return next((int(x.split()[1]) for x in lines if x.startswith("oom_kill ")), 0)


def _remove(group: Path) -> None:
    """Remove an empty cgroup; the kernel may take a moment to let go of what was charged to it."""
    for _ in range(20):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", help="cap of the whole process tree, such as 1.2GiB")
    parser.add_argument("--disk", help="most bytes read per second, such as 500MB/s")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.join:
        _join(options.join, options.command)
    run = run_capped(
        options.command,
        memory_bytes=None if options.memory is None else parse_bytes(options.memory),
        disk_bytes_per_s=None if options.disk is None else parse_rate(options.disk),
        disk=disk_of(Path.cwd()),
    )
    sys.stderr.write(json.dumps(asdict(run)) + "\n")
    sys.exit(run.exit_code)


if __name__ == "__main__":
    main()
