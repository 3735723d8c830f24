"""What a batch gives: tok/s of many sequences in one streamed pass over tok/s of one, in the same run.

Example: python benchmarks/bench_batch.py /tmp/llama-3b-int8 --memory 2GiB --batch 8

Prompts are answered by `tierline run --prompts`, with one sequence in a pass and then with `--batch`, in turn
and as often as `--rounds` says, under the same budget. Printed are the tok/s of decoding (all sequences) and
the ratio of the medians. Weights cross the link once per pass, however many rows it has: while the link is
what bounds, the ratio is the batch, less what the larger cache takes from what is pinned.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_TIERLINE = "from tierline.cli.main import main; main()"


def rate(model: Path, memory: str, prompts: Path, tokens: int, batch: int) -> float:
    """Return the tok/s at which a run of the prompts decodes, `batch` in a pass."""
    command = [
        sys.executable, "-c", _TIERLINE, "run", str(model), "--prompts", str(prompts),
        "-o", str(prompts.with_suffix(".out")), "--batch", str(batch), "--memory", memory,
        "--new", str(tokens), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return float(next(row["measured"] for row in found["rows"] if row["unit"] == "tok/s"))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], options.batch: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for batch, found in rates.items():
                prompts = Path(folder) / f"{batch}.jsonl"
                lines = (json.dumps({"id": i, "prompt": f"t{i} t4 t5 t6"}) for i in range(batch))
                prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
                prompts.with_suffix(".out").unlink(missing_ok=True)  # what is answered is not asked again
                found.append(rate(options.model, options.memory, prompts, options.tokens, batch))
    for batch, found in rates.items():
        print(f"batch {batch}: {statistics.median(found):.2f} tok/s ({min(found):.2f} to {max(found):.2f})")
    one, many = (statistics.median(found) for found in rates.values())
    print(f"ratio {many / one:.2f}")


if __name__ == "__main__":
    main()
