"""How near a mixture of experts that does not fit comes to the physical floor, under real limits.

Example: python benchmarks/bench_experts.py /tmp/moe --disks 500MB/s,2GB/s --caps 1.5 --runs 3

Writes the model of moe_2gb.json into the folder if it is not there (2 GB, random weights; tokens are sampled,
so that every expert is about as likely). Each cell runs `tierline run` in a cgroup of file / cap with a
throttled disk, and prints the median with its spread, and two ratios to a floor, both for the bytes that the
routing which happened made it read:

  of the floor   max(compute, bytes / rate): what a run would take that knew all routing beforehand
  of the routed  max of that and compute besides experts + c + bytes / rate: what a run takes that begins to
                 read when a router has chosen, and so beside other experts' compute only; guesses beat it

Needs root.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from capped import disk_of, run_capped

from tierline.testing.random_model import write_random_model
from tierline.units import format_bytes, parse_rate

_SLACK_BYTES = 8 * 2**20  # page tables and what else the kernel charges to the cgroup
_CONFIG = Path(__file__).with_name("moe_2gb.json")
_TIERLINE = str(Path(sys.executable).with_name("tierline"))


def run_once(
    model: Path, memory_bytes: int, rate: float | None, tokens: int
) -> tuple[dict[str, Any] | str, int]:
    """Run once; return the document or what the refusal said, and the OOM kills."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        command = (
            f'exec "{_TIERLINE}" run "{model}" "t3 t4 t5" --raw --new {tokens} --temperature 1 --seed 1 '
            f'--memory {memory_bytes - _SLACK_BYTES}B --json >"{out}" 2>"{err}"'
        )
        done = run_capped(
            ["sh", "-c", command],
            memory_bytes=memory_bytes,
            disk_bytes_per_s=rate,
            disk=disk_of(model),
        )
        text = out.read_text(encoding="utf-8")
        said = err.read_text(encoding="utf-8").strip().splitlines()
        return (json.loads(text) if text else (said[-1] if said else "no answer")), done.oom_kills


def floors_s(document: dict[str, Any], throttle: float | None) -> tuple[float, float]:
    """Return the seconds of a token by the floor, and by the floor of who reads only what is routed."""
    planned = {row["quantity"]: row["planned"] for row in document["rows"]}
    rate = throttle or planned["disk link rate"]
    link_s = document["read_bytes_per_token"] / rate
    floor_s = max(document["planned_compute_s"], link_s)
    routed_s = document["planned_unrouted_s"] + document["experts"]["read_bytes_per_token"] / rate
    return floor_s, max(floor_s, routed_s)


def print_cell(model: Path, cap: float, rate: float | None, tokens: int, runs: int) -> None:
    """Run a cell and print its row."""
    memory_bytes = int((model / "model.safetensors").stat().st_size / cap)
    disk = "none" if rate is None else f"{rate / 1e6:.0f} MB/s"
    name = f"cap {cap:4g} {format_bytes(memory_bytes):>10} {disk:>9}"
    done = [run_once(model, memory_bytes, rate, tokens) for _ in range(runs)]
    documents = [document for document, _ in done if not isinstance(document, str)]
    if not documents:
        print(f"{name}  {done[0][0]}", flush=True)
        return
    rates = sorted(d["tokens_per_s_steady"] for d in documents)
    floors = [[d["tokens_per_s_steady"] * s for s in floors_s(d, rate)] for d in documents]
    last = documents[-1]
    experts, planned = last["experts"], next(r for r in last["rows"] if r["quantity"] == "decode rate")
    visited = experts["hits_per_token"] + experts["misses_per_token"]
    print(
        f"{name}  {statistics.median(rates):6.2f} tok/s ({rates[0]:.2f}-{rates[-1]:.2f})"
        f"  of the floor {statistics.median(f for f, _ in floors):5.1%}"
        f"  of the routed {statistics.median(r for _, r in floors):5.1%}"
        f"  plan {planned['error_fraction']:+6.1%}"
        f"  found {experts['hits_per_token'] / visited:5.1%}"
        f"  read {last['read_bytes_per_token'] / 1e6:6.1f} MB/tok"
        f" ({experts['wasted_read_bytes_per_token'] / 1e6:.1f} on wrong guesses)"
        f"  peak {last['measured_bytes'] / last['allowed_bytes']:5.1%} of allowed"
        f"  OOM {sum(kills for _, kills in done)}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and run the cells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--caps", default="1.5")
    parser.add_argument("--disks", default="500MB/s,2GB/s")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    if not (options.model / "model.safetensors").is_file():
        write_random_model(str(_CONFIG), options.model)
    for disk in options.disks.split(","):
        for cap in options.caps.split(","):
            rate = None if disk == "none" else parse_rate(disk)
            print_cell(options.model.resolve(), float(cap), rate, options.tokens, options.runs)


if __name__ == "__main__":
    main()
