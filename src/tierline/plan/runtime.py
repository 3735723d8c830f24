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

    `kv_block_tokens` is what the cache's tokens are rounded up to, `chunk` the most rows in a pass.
    """

    name: str
    title: str
    source: str
    buffers: BufferRules
    kv_block_tokens: Sourced | None = None
    chunk: Sourced | None = None

    def costing(self, asked: Costing) -> Costing:
        """Return `asked` with the runtime's habits where nothing else was asked for."""
        block, chunk = asked.kv_block_tokens, asked.prefill_chunk
        if block == 1 and self.kv_block_tokens is not None:
            block = int(self.kv_block_tokens.value)
        if chunk is None and self.chunk is not None:
            chunk = int(self.chunk.value)
        return replace(
            asked, runtime=self.name, buffers=self.buffers, kv_block_tokens=block, prefill_chunk=chunk
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
    )


def _number(document: Mapping[str, Any], table: str, key: str) -> Sourced | None:
    entry = document.get(table, {}).get(key)
    return None if entry is None else Sourced(entry["value"], entry["kind"], entry["source"])


def _folder() -> Traversable:
    return files("tierline") / "data" / "runtimes"
