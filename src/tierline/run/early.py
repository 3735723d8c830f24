"""Refuse a budget that cannot work before anything heavy is imported: by headers, and by an earlier run."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from tierline.cache import cache_folder, read_cached, write_cached
from tierline.run.budget import too_little_memory
from tierline.run.kv.choice import KvChoice
from tierline.run.parts import needs_by_header
from tierline.run.source import Source

# What the process takes varies by this much from run to run: nearer to the limit, a rehearsal decides.
_VARIATION = 0.05
_RECORD_LIMIT_BYTES = 100


def refuse_at_once(
    source: Source,
    *,
    resident: int | None,
    memory: int | None = None,
    new: int = 1,
    lean: bool = False,
    kv: KvChoice | None = None,
    links: int = 1,
) -> None:
    """Raise BudgetError, with the smallest that can work, where headers show that a budget cannot.

    What the process takes besides weights is known once a run of such a model was rehearsed on this computer;
    before that, `memory` is left to the rehearsal. So is a model whose description does not say how it is
    held. `new` is the number of tokens to generate, `kv` how the cache is kept, `links` over how many weights
    are read at once.
    """
    needs = None if resident is None and memory is None else needs_by_header(source, links)
    if needs is None:
        return
    if resident is not None:
        needs.refuse_less(resident)
    reserved_bytes = None if memory is None else _read_reserve(source, lean=lean)
    if memory is None or reserved_bytes is None:
        return
    kv_bytes = (kv or KvChoice()).held_bytes(
        source.model, batch=1, tokens=new, computed=source.compute_format
    )
    if memory < (1 - _VARIATION) * reserved_bytes + kv_bytes + needs.least_bytes:
        raise too_little_memory(memory, reserved_bytes, kv_bytes, needs.least_bytes)


def remember_reserve(source: Source, reserved_bytes: int, *, lean: bool = False) -> None:
    """Keep what a process that did nothing else took without weights; the least of all runs counts."""
    known = _read_reserve(source, lean=lean)
    if reserved_bytes > 0 and (known is None or reserved_bytes < known):
        write_cached(_record(source, lean=lean), str(reserved_bytes).encode())


def _read_reserve(source: Source, *, lean: bool) -> int | None:
    text = (read_cached(_record(source, lean=lean), _RECORD_LIMIT_BYTES) or b"").decode(errors="replace")
    return int(text) if text.isdecimal() else None


def _record(source: Source, *, lean: bool) -> Path:
    """Return where the reserve of this kind of model is kept, under the libraries' versions of now."""
    made_by = [version(package) for package in ("tierline", "torch", "transformers")]
    kind = [source.config, source.compute_format, lean, made_by]
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder() / f"unlimited-reserve-{digest[:32]}.txt"
