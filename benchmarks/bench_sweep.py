"""How fast a sweep is, beside GenZ: `python benchmarks/bench_sweep.py [--genz VENV/bin/python] [--rows N]`.

A point is one row: footprint, placement, both phases and their times, bound and first token, of an 80-layer
model on three axes. Rates are of evaluation on one core, per second of processor time; the sweep of `--rows`
is the command itself, file and all, with the peak memory of its process. GenZ (PyPI: genz-llm) goes into an
environment of its own, because it pins what it needs: `python -m venv V && V/bin/pip install genz-llm`. Its
point is its prefill and its decode of the same model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tierline.search.sweep import Question

Given = Mapping[str, Sequence[str]]

COMMON = {"model": ["llama-3.1-70b"], "weights": ["mxfp4"]}
AXES = {"context": ["1024:131072:+1024"], "batch": ["1:64:+1"], "new": ["1:128:+1"]}
SPACES: Mapping[str, Given] = {
    "resident, streamed and impossible (h100-sxm)": {**COMMON, "on": ["h100-sxm"], **AXES},
    "all resident (mi300x, context to 16k)": {
        **COMMON, "on": ["mi300x"], **AXES, "context": ["128:16384:+128"], "batch": ["1:24:+1"]
    },
    "all streamed (rtx-4090, short contexts)": {
        **COMMON, "on": ["rtx-4090"], **AXES, "context": ["256:2288:+16"], "batch": ["1:8:+1"]
    },
}  # fmt: skip
# 32 layers, streamed over a link: a plan and the simulation of the last three decode passes for every row.
SIMULATED: Given = {
    "model": ["llama-3.1-8b"], "on": ["rtx-3090"], "overrides": ["vram.capacity=8GiB"],
    "strategy": ["tiered"], "phase": ["decode"], "passes": ["3"], "context": ["1024:2047:+1"],
}  # fmt: skip
GENZ = """
import json, time, warnings
warnings.filterwarnings("ignore")
from GenZ import decode_moddeling, prefill_moddeling
asked = dict(model="meta-llama/Llama-3.1-70B", system_name="H100_GPU", bits="int4")
points, started = 0, time.process_time()
for batch in (1, 2, 4):
    for tokens in (1024, 2048, 4096, 8192):
        prefill_moddeling(batch_size=batch, input_tokens=tokens, **asked)
        decode_moddeling(batch_size=batch, input_tokens=tokens, output_tokens=128, **asked)
        points += 1
print(json.dumps(points / (time.process_time() - started)))
"""


def rows_per_s(given: Given, least_s: float = 2.0) -> float:
    """Return rows evaluated per second of processor time, in the chunks of a sweep, what is shared known."""
    question = Question.of(given)
    chunks = list(question.chunks)
    for chunk in chunks[: 1 if question.evaluator.simulates else len(chunks)]:
        question.evaluator.evaluate(question.rows_of(chunk).start, question.rows_of(chunk).stop)
    rows, started = 0, time.process_time()
    while time.process_time() - started < least_s:
        for chunk in chunks:
            span = question.rows_of(chunk)
            question.evaluator.evaluate(span.start, span.stop)
            rows += len(span)
            if time.process_time() - started >= least_s:
                break
    return rows / (time.process_time() - started)


def first_time_rows_per_s(given: Given) -> float:
    """Return the same for every row once, from nothing known."""
    started = time.process_time()
    question = Question.of(given)
    for chunk in question.chunks:
        span = question.rows_of(chunk)
        question.evaluator.evaluate(span.start, span.stop)
    return question.rows / (time.process_time() - started)


def written(rows: int) -> dict[str, float]:
    """Return what a sweep of about so many rows takes as a command: seconds, rows a second, peak bytes."""
    contexts = max(1, rows // (64 * 128))
    with tempfile.TemporaryDirectory() as folder:
        words = ["sweep", "llama-3.1-70b", "--on", "h100-sxm", "--weights", "mxfp4", "--batch", "1:64:+1"]
        words += ["--new", "1:128:+1", "--context", f"1024:{1024 + 64 * (contexts - 1)}:+64"]
        words += ["-o", str(Path(folder) / "rows.parquet"), "--json"]
        started = subprocess.Popen(
            [sys.executable, "-m", "tierline", *words], stdout=subprocess.PIPE, text=True
        )
        text = started.stdout.read() if started.stdout else ""
        _, _, usage = os.wait4(started.pid, 0)
        size = (Path(folder) / "rows.parquet").stat().st_size
    found = json.loads(text)
    return {**found, "peak_bytes": usage.ru_maxrss * 1024, "file_bytes": size}


def main() -> None:
    """Print all rates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--genz", help="python of the environment that has genz-llm")
    parser.add_argument("--rows", type=int, default=10_000_000)
    asked = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name, given in SPACES.items():
        question = Question.of(given)
        first, rate = first_time_rows_per_s(given), max(rows_per_s(given) for _ in range(3))
        print(
            f"{name}: {question.rows:,} rows: {first:,.0f}/s from nothing, "
            f"{rate:,.0f}/s with placements known"
        )
    simulated = max(rows_per_s(SIMULATED) for _ in range(3))
    print(f"planned and simulated, 32 layers, three passes: {simulated:,.0f}/s")
    if asked.genz:
        done = subprocess.run([asked.genz, "-c", GENZ], capture_output=True, text=True, check=True)
        print(f"GenZ, the same model: {float(done.stdout.splitlines()[-1]):,.1f}/s")
    if asked.rows:
        found = written(asked.rows)
        print(
            f"sweep to Parquet: {found['rows']:,.0f} rows in {found['seconds']:,.0f} s by the clock, "
            f"{found['rows_per_s']:,.0f}/s, peak {found['peak_bytes'] / 2**30:.2f} GiB, "
            f"file {found['file_bytes'] / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
