"""Decode rates with every weight in memory, as ratios measured in one run on one machine, interleaved.

Example: python benchmarks/bench_resident.py bf16=/tmp/llama-1b int8=/tmp/llama-1b-int8 peer=/tmp/llama-1b

Each NAME=PATH is decoded by Tierline, all pinned; a NAME that starts with `peer` by transformers'
`from_pretrained` in the file's own dtype (a GGUF file dequantised to fp32). Each takes its turn in a process
of its own, round after round, and the table shows the median tok/s, the spread, and the ratio to the first.
For SmolLM2's fast mode: `tierline pack smollm2.gguf /tmp/smollm2-int4 --weights int4:group=32`, then
`python benchmarks/bench_resident.py peer=smollm2.gguf fast=/tmp/smollm2-int4`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

_PROMPT_IDS = (3, 4, 5)
_WARM_TOKENS = 4


def tierline_model(path: Path) -> Any:  # noqa: ANN401 - whatever model it is
    """Return the model with everything pinned."""
    import tierline

    return tierline.load(path, context=256)


def peer_model(path: Path) -> Any:  # noqa: ANN401 - whatever model it is
    """Return the model as transformers loads it by itself."""
    from transformers import AutoModelForCausalLM, GgufConfig

    if path.suffix == ".gguf":
        dequantised = GgufConfig(dequantize=True)
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, quantization_config=dequantised
        )
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto")


def decode_rate(model: Any, tokens: int) -> float:  # noqa: ANN401 - whatever model it is
    """Return the tok/s of greedy decode, by the median time between tokens after the first few."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    arrived: list[float] = []

    class Clock(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 - its signature
            arrived.append(time.perf_counter())

        def end(self) -> None:
            """Nothing is held back."""

    ids = torch.tensor([_PROMPT_IDS])
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            streamer=Clock(),
        )
    return 1 / statistics.median(b - a for a, b in pairwise(arrived[1 + _WARM_TOKENS :]))


def measured(name: str, path: str, tokens: int) -> float:
    """Return the tok/s of one process of its own."""
    command = [sys.executable, __file__, f"{name}={path}", "--tokens", str(tokens), "--inside"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contestants", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    pairs = [text.partition("=")[::2] for text in options.contestants]
    if options.inside:
        name, path = pairs[0]
        make = peer_model if name.startswith("peer") else tierline_model
        print(json.dumps(decode_rate(make(Path(path)), options.tokens)), flush=True)
        return
    rates: dict[str, list[float]] = {name: [] for name, _ in pairs}
    for _ in range(options.rounds):
        for name, path in pairs:
            rates[name].append(measured(name, path, options.tokens))
    first = statistics.median(rates[pairs[0][0]])
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{name:16} {middle:8.2f} tok/s ({min(found):.2f} to {max(found):.2f})"
            f"  {middle / first:5.2f} x {pairs[0][0]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
