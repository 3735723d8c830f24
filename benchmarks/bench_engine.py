"""How near the engine comes to the physical floor, under real limits of memory and disk.

Example: python benchmarks/bench_engine.py /tmp/llama-1b --caps 1.1,1.5,3 --disks 500MB/s,2GB/s,none --runs 3

Each cell runs `tierline run` in a cgroup whose memory limit is the file's size over the cap, and prints the
median of its runs with the spread: tok/s, the ratio to the floor `1 / max(compute, bytes read / disk rate)`,
bytes read per token, peak memory and OOM kills. The disk rate is the throttle, or without one the rate that
the run measured with O_DIRECT just before it. A budget that cannot work prints "below minimum". Needs root.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capped import CappedRun, disk_of, run_capped

from tierline.units import format_bytes, parse_rate

_TIERLINE = str(Path(sys.executable).with_name("tierline"))


@dataclass(frozen=True, slots=True)
class Cell:
    """One corner of the matrix: which model, under which limits."""

    model: Path
    cap: float
    disk_bytes_per_s: float | None

    @property
    def memory_bytes(self) -> int:
        """Bytes allowed to the whole process."""
        return int(sum(f.stat().st_size for f in self.model.glob("*.safetensors")) / self.cap)


def run_once(cell: Cell, tokens: int) -> tuple[CappedRun, dict[str, Any] | None, str]:
    """Run one cell once; the document is None where the run was refused."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        budget = f"{cell.memory_bytes}B"
        command = f'exec "{_TIERLINE}" run "{cell.model}" "t3 t4 t5" --raw --new {tokens} --memory {budget} '
        command += f'--json >"{out}" 2>"{err}"'
        done = run_capped(
            ["sh", "-c", command],
            memory_bytes=cell.memory_bytes,
            disk_bytes_per_s=cell.disk_bytes_per_s,
            disk=disk_of(cell.model),
        )
        text = out.read_text(encoding="utf-8")
        message = err.read_text(encoding="utf-8").strip().splitlines()
        return done, json.loads(text) if text else None, message[-1] if message else ""


def floor_ratio(cell: Cell, document: dict[str, Any]) -> float:
    """Return measured tok/s over the floor's."""
    planned = {row["quantity"]: row["planned"] for row in document["rows"]}
    rate = cell.disk_bytes_per_s or planned["disk link rate"]
    link_s = document["read_bytes_per_token"] / rate if rate else 0.0
    return float(document["tokens_per_s_steady"] * max(document["planned_compute_s"], link_s))


def print_cell(cell: Cell, tokens: int, runs: int) -> None:
    """Run a cell and print its row."""
    disk = "none" if cell.disk_bytes_per_s is None else f"{cell.disk_bytes_per_s / 1e6:.0f} MB/s"
    name = f"{cell.model.name:24} {cell.cap:4g} {format_bytes(cell.memory_bytes):>10} {disk:>9}"
    done = [run_once(cell, tokens) for _ in range(runs)]
    documents = [document for _, document, _ in done if document is not None]
    if not documents:
        print(f"{name}  below minimum: {done[0][2][:120]}", flush=True)
        return
    rates = sorted(d["tokens_per_s_steady"] for d in documents)
    ratio = statistics.median(floor_ratio(cell, d) for d in documents)
    last = documents[-1]
    predicted = next(r for r in last["rows"] if r["quantity"] == "decode rate")
    print(
        f"{name}  {statistics.median(rates):6.2f} tok/s ({rates[0]:.2f}-{rates[-1]:.2f})"
        f"  floor {ratio:5.1%}  plan {predicted['error_fraction']:+6.1%}"
        f"  read {last['read_bytes_per_token'] / 1e6:7.1f} MB/tok"
        f"  pinned {last['weights_pinned_bytes'] / 1e6:6.0f} MB"
        f"  reserve {last['reserved_bytes'] / 2**20:.0f} MiB"
        f"  peak {last['measured_bytes'] / last['projected_bytes']:5.1%} of projected"
        f"  OOM {sum(run.oom_kills for run, _, _ in done)}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and run the matrix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--caps", default="1.1,1.5,3")
    parser.add_argument("--disks", default="500MB/s,2GB/s,none")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12)
    options = parser.parse_args()
    ahead = subprocess.run(
        ["sh", "-c", "cat /sys/block/*/queue/read_ahead_kb | sort -u"],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"read_ahead_kb {ahead.stdout.split()}; page cache dropped before each run", flush=True)
    for model in options.models:
        for disk in options.disks.split(","):
            for cap in options.caps.split(","):
                rate = None if disk == "none" else parse_rate(disk)
                print_cell(Cell(model.resolve(), float(cap), rate), options.tokens, options.runs)


if __name__ == "__main__":
    main()
