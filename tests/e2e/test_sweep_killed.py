"""Sweeps that are really killed: the command by kill -9, and one of two Dask workers at its work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tierline.search.cluster import on_workers
from tierline.search.files import FileFormat
from tierline.search.sweep import Part, Question, sweep

COMMAND = [sys.executable, "-m", "tierline", "sweep", "smollm2-135m", "--on", "nexys-video"]
OPTIONS = ["--strategy", "host-stream,layer-swap", "--passes", "2", "--context", "64:703:+1"]
SIMULATED = {
    "model": ["smollm2-135m"],
    "on": ["nexys-video"],
    "strategy": ["host-stream,layer-swap"],
    "passes": ["2"],
    "context": ["64:703:+1"],
}


def wait_for(condition: object, what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends, what
        time.sleep(0.02)


@pytest.mark.slow
def test_a_command_killed_goes_on_without_losing_or_repeating_a_row(tmp_path: Path) -> None:
    out = tmp_path / "killed.csv"
    parts = tmp_path / "killed.csv.parts"
    running = subprocess.Popen([*COMMAND, *OPTIONS, "-o", str(out)], stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list(parts.glob("*.part"))) >= 2, "no parts were written")
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.part")}
    made: list[int] = []
    question = Question.of(SIMULATED)

    def counted(asked: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
        from tierline.search.sweep import run_here

        for part in run_here(asked, chunks, chosen):
            made.append(part[0])
            yield part

    assert sweep(question, out, runner=counted) == 256 * len(kept)
    assert sorted(made) == [c for c in question.chunks if f"{c:08d}.part" not in kept]
    sweep(question, tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [int(line.split(",")[0]) for line in out.read_text().splitlines()[1:]] == list(range(1280))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a cluster says of a worker that was killed
def test_a_worker_killed_costs_only_its_chunks(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    planned = {"model": ["smollm2-135m"], "on": ["nexys-video"], "weights": ["bf16,mxfp8"]}
    question = Question.of({**planned, "context": ["64:4063:+1"], "batch": ["1:16:+1"]})
    assert len(question.chunks) == 4
    killed: list[int] = []

    def killing(asked: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
        for count, part in enumerate(on_workers(2)(asked, chunks, chosen)):
            if count == 0:
                workers = worker_processes()
                assert len(workers) == 2
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            yield part

    sweep(question, tmp_path / "spread.csv", runner=killing)
    sweep(question, tmp_path / "here.csv")
    assert killed
    assert (tmp_path / "spread.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def worker_processes() -> list[int]:
    """Return the processes that this one's cluster started: grandchildren that multiprocessing spawned."""
    from distributed import Worker  # noqa: F401 - so that the module is there before its processes are looked for

    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                command = entry.joinpath("cmdline").read_bytes()
            except OSError:
                continue
            if parent == os.getpid() and b"spawn_main" in command:
                found.append(int(entry.name))
    return found
