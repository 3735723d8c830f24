"""Refuse a budget that cannot work before anything heavy is imported: by headers, and by an earlier run."""

from tierline.run.budget import too_little_memory, usable_bytes
from tierline.run.kv.choice import KvChoice
from tierline.run.parts import needs_by_header
from tierline.run.reserve import known_reserve_bytes
from tierline.run.source import Source

# What the process takes varies by this much from run to run: nearer to the limit, a rehearsal decides.
_VARIATION = 0.05


def refuse_at_once(
    source: Source,
    *,
    resident: int | None,
    memory: int | None = None,
    new: int = 1,
    kv: KvChoice | None = None,
    links: int = 1,
) -> None:
    """Raise BudgetError, with the smallest that can work, where headers show that a budget cannot.

    What the process takes besides weights is known once such a model ran on this computer without a limit;
    before that, it is what is usual. A model whose description does not say how it is held is left to the
    rehearsal. `new` is the number of tokens to generate, `kv` how the cache is kept, `links` over how many
    weights are read at once.
    """
    needs = None if resident is None and memory is None else needs_by_header(source, links)
    if needs is None:
        return
    if resident is not None:
        needs.refuse_less(resident)
    if memory is None:
        return
    allowed, reserved_bytes = usable_bytes(memory), known_reserve_bytes(source)
    kv_bytes = (kv or KvChoice()).held_bytes(
        source.model, batch=1, tokens=new, computed=source.compute_format
    )
    if allowed < (1 - _VARIATION) * reserved_bytes + kv_bytes + needs.least_bytes:
        raise too_little_memory(allowed, reserved_bytes, kv_bytes, needs.least_bytes)
