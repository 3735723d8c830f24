"""The choices under which passes are costed."""

from dataclasses import dataclass
from typing import Literal, get_args

from tierline.cost.activations import ActivationPolicy
from tierline.cost.buffers import LEAN, BufferRules
from tierline.cost.split import Split
from tierline.formats.precision import Precision

Scope = Literal["all", "layer-matrices"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Costing:
    """The choices under which passes are costed.

    `hoist_static` computes an operation marked static once per phase instead of once per pass.
    `kv_block_tokens` is the page of a paged KV cache, 1 for none. `include` says whose traffic counts: `all`,
    or `layer-matrices` for the weight matrices and activations of the layers that attend and nothing else
    (what is occupied is not affected). `prefill_chunk` cuts a prompt into passes of at most that many rows.
    `average_decode` costs every decode pass at its own context instead of all at the last one.
    `expert_shares` is how often each expert is visited, None for uniform routing. `buffers` says how the
    runtime treats its activations, and `all_logits` that a prefill makes those of every position. `runtime`
    names whose habits these are: `kv_spare_tokens` are cached beyond a window, None for all of a context;
    weights in the formats `repacked` are copied into another layout; the process itself takes
    `process_bytes`. `split` divides the model over a machine's devices, None uses one.
    """

    precision: Precision
    activation_policy: ActivationPolicy = "fused"
    hoist_static: bool = True
    kv_block_tokens: int = 1
    include: Scope = "all"
    prefill_chunk: int | None = None
    average_decode: bool = False
    expert_shares: tuple[float, ...] | None = None
    buffers: BufferRules = LEAN
    all_logits: bool = False
    runtime: str = "bare"
    kv_spare_tokens: int | None = 0
    repacked: tuple[str, ...] = ()
    process_bytes: int = 0
    split: Split | None = None
