"""Run in a process of its own: build a model, warm up, and print how far one prefill raises the RSS.

Usage: peak_rss.py CONFIG.json TOKENS sdpa|eager LOGITS_TO_KEEP fp32|bf16. Prints the RSS before the pass and
the high-water mark in it, in bytes. The parent sets the allocator's thresholds, so that freed memory is given
back at once.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def status_bytes(key: str) -> int:
    """Return a figure of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Measure one prefill after another that warmed everything up."""
    config_path, tokens, attention, keep, dtype = sys.argv[1:]
    config = AutoConfig.for_model(**json.loads(Path(config_path).read_text()))
    torch.manual_seed(0)
    torch.set_default_dtype({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    ids = torch.ones((1, int(tokens)), dtype=torch.long)
    with torch.no_grad():
        out = model(ids, use_cache=True, logits_to_keep=int(keep))
        del out
        gc.collect()
        before_bytes = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        model(ids, use_cache=True, logits_to_keep=int(keep))
    print(before_bytes, status_bytes("VmHWM"))  # noqa: T201


if __name__ == "__main__":
    main()
