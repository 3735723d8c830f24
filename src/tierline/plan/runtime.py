"""What a runtime adds to the model itself: its buffers, its cache's pages, its chunks; data with sources."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from tierline.cost.buffers import BufferRules
from tierline.cost.costing import Costing
from tierline.errors import InputError
from tierline.sourced import Sourced

DEFAULT_RUNTIME = "bare"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime's habits. `source` is that of the buffer rules; numbers that are None it does not set.

    `kv_block_tokens` is what the cache's tokens are rounded up to, `chunk` the most rows in a pass,
    `process_bytes` what the process takes with no model in it. A sliding window's cache has room for
    `spare_tokens` more, or with `whole_window` for the whole context. Weights in the formats `repacked` are
    kept a second time, in the layout of its kernels.
    """

    name: str
    title: str
    source: str
    buffers: BufferRules
    kv_block_tokens: Sourced | None = None
    chunk: Sourced | None = None
    process_bytes: Sourced | None = None
    whole_window: bool = False
    spare_tokens: Sourced | None = None
    repacked: tuple[str, ...] = ()

    def costing(self, asked: Costing) -> Costing:
        """Return `asked` with the runtime's habits where nothing else was asked for."""
        block, chunk = asked.kv_block_tokens, asked.prefill_chunk
        if block == 1 and self.kv_block_tokens is not None:
            block = int(self.kv_block_tokens.value)
        if chunk is None and self.chunk is not None:
            chunk = int(self.chunk.value)
        spare = int(self.spare_tokens.value) if self.spare_tokens else 0
        return replace(
            asked,
            runtime=self.name,
            buffers=self.buffers,
            kv_block_tokens=block,
            prefill_chunk=chunk,
            kv_spare_tokens=None if self.whole_window else spare,
            repacked=self.repacked,
            process_bytes=int(self.process_bytes.value) if self.process_bytes else 0,
        )


@cache
def runtime_names() -> tuple[str, ...]:
    """Return the names of the runtimes that ship with Tierline, sorted."""
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))
    )


@cache
def load_runtime(name: str) -> Runtime:
    """Return the runtime called `name`; raise InputError with the known names otherwise."""
    if name not in runtime_names():
        raise InputError(f"--runtime {name[:80]!r}: want one of {', '.join(runtime_names())}")
    document = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    rules = dict(document["buffers"])
    return Runtime(
        name,
        document["title"],
        rules.pop("source"),
        BufferRules(**rules),
        _number(document, "kv", "block_tokens"),
        _number(document, "prefill", "chunk"),
        _number(document, "process", "bytes"),
        document.get("kv", {}).get("window") == "whole",
        _number(document, "kv", "spare_tokens"),
        tuple(document.get("weights", {}).get("repacked", ())),
    )


def _number(document: Mapping[str, Any], table: str, key: str) -> Sourced | None:
    entry = document.get(table, {}).get(key)
    return None if entry is None else Sourced(entry["value"], entry["kind"], entry["source"])


def _folder() -> Traversable:
    return files("tierline") / "data" / "runtimes"
