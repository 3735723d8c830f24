"""Whether a memory budget is kept under a cgroup limit of exactly that size, and what is read meanwhile.

Example: python benchmarks/bench_promise.py /tmp/llama-1b --memory 700MiB --tokens 24

The run is made in a cgroup whose limit is `--memory`. Printed are the plan's bytes per token beside the
bytes that the kernel read for the process (/proc/self/io) and the pages that it faulted in from disk
(/proc/self/stat), token by token from the second on: a library page that is evicted and read again shows in
both. The exit code is 1 where more than 1 % is read beyond the plan, memory was exceeded, or the kernel
killed. Needs root.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from capped import disk_of, run_capped

from tierline.run.lean import without_compile
from tierline.run.source import open_source
from tierline.units import format_bytes, parse_bytes

_MAJOR_FAULTS = 9  # of the fields after the command's name in /proc/self/stat
_MOST_BEYOND = 0.01


def counters() -> tuple[int, int]:
    """Return the bytes read from disks for this process, and its page faults that a disk had to serve."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    read_bytes = next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return read_bytes, int(fields[_MAJOR_FAULTS])


def inside(model: Path, memory: int, tokens: int) -> None:
    """Answer with `model`, taking both counters as each token comes; print what was found as JSON."""
    taken: list[tuple[int, int]] = []
    with without_compile(lean=False):  # as the command line
        from tierline.run.request import Request
        from tierline.run.session import Session

        with Session(open_source(model), resident=None, memory=memory) as session:
            request = Request("t3 t4 t5", new=tokens, raw=True)
            report = session.answer(
                request, progress=lambda *_: None, emit=lambda _: taken.append(counters())
            )
    first, last = taken[1], taken[-2]
    steps = len(taken) - 3
    found = {
        "planned_bytes": report.prediction.read_bytes,
        "read_bytes": (last[0] - first[0]) / steps,
        "major_faults": (last[1] - first[1]) / steps,
        "measured_bytes": report.measured_bytes,
        "reserved_bytes": report.reserved_bytes,
        "tokens_per_s": report.tokens_per_s_steady,
    }
    sys.stdout.write(json.dumps(found))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    memory = parse_bytes(options.memory)
    if options.inside:
        inside(options.model, memory, options.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = f'exec "{sys.executable}" "{__file__}" "{options.model}" --inside '
        command += f'--memory {memory}B --tokens {options.tokens} >"{out}"'
        done = run_capped(
            ["sh", "-c", command], memory_bytes=memory, disk_bytes_per_s=None, disk=disk_of(options.model)
        )
        if done.exit_code:
            sys.exit(f"the run ended with {done.exit_code}; OOM kills: {done.oom_kills}")
        found = json.loads(out.read_text(encoding="utf-8"))
    beyond = found["read_bytes"] / found["planned_bytes"] - 1
    kept = found["measured_bytes"] <= memory
    print(
        f"limit {format_bytes(memory)}: resident at most {format_bytes(found['measured_bytes'])}, of which "
        f"{format_bytes(found['reserved_bytes'])} without weights; per token {found['planned_bytes']:,} B "
        f"planned, {found['read_bytes']:,.0f} B read by the kernel ({beyond:+.2%}), "
        f"{found['major_faults']:.2f} pages faulted in; {found['tokens_per_s']:.2f} tok/s; "
        f"OOM kills {done.oom_kills}"
    )
    sys.exit(0 if kept and abs(beyond) <= _MOST_BEYOND and not done.oom_kills else 1)


if __name__ == "__main__":
    main()
