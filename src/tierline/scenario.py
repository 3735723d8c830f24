"""The one way from the options that verbs share to a model, a machine and what is asked of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tierline.cost.activations import ACTIVATION_POLICIES, ActivationPolicy
from tierline.cost.costing import SCOPES, Costing, Scope
from tierline.cost.split import Split
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.devices import several
from tierline.machines.load import load_machine
from tierline.machines.machine import Machine
from tierline.models.defaults import with_defaults
from tierline.models.description import Model
from tierline.models.workload import MOST_TOKENS, Workload
from tierline.plan.runtime import DEFAULT_RUNTIME, load_runtime
from tierline.probe.open import open_any_model
from tierline.units import MIB, format_bytes

_LARGEST_SHARES_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the shared options name."""

    model: Model
    machine: Machine
    workload: Workload
    costing: Costing

    @property
    def precision(self) -> Precision:
        """The number formats."""
        return self.costing.precision

    @property
    def activation_policy(self) -> ActivationPolicy:
        """Which activations cross the fast memory."""
        return self.costing.activation_policy


def scenario(
    model: str | Model,
    on: str,
    *,
    overrides: Sequence[str] | None = None,
    weights: str | None = None,
    kv: str = "bf16",
    activations: str = "bf16",
    activation_policy: str = "fused",
    keep: Sequence[str] | None = None,
    batch: int = 1,
    prompt_tokens: int | None = None,
    new: int | None = None,
    context: int | None = None,
    images: int | None = None,
    steps: int | None = None,
    source_tokens: int | None = None,
    prefill_chunk: int | None = None,
    average_decode: bool = False,
    kv_block_tokens: int = 1,
    include: str = "all",
    hoist: bool = True,
    expert_shares: Path | None = None,
    runtime: str = DEFAULT_RUNTIME,
    all_logits: bool = False,
    parallel: str | None = None,
) -> Scenario:
    """Return what the options name; raise InputError for whatever is unknown or inconsistent.

    `model` is a model, or what names one. Formats and counts are checked before it and the machine are
    opened.
    """
    precision = Precision.of(weights=weights, kv=kv, activations=activations, keep=keep or ())
    for name, count in (("prefill-chunk", prefill_chunk), ("kv-block-tokens", kv_block_tokens)):
        if count is not None and not 1 <= count <= MOST_TOKENS:
            raise InputError(f"--{name} {count}: want 1 to {MOST_TOKENS:,} tokens")
    costing = Costing(
        precision,
        activation_policy=_policy(activation_policy),
        hoist_static=hoist,
        kv_block_tokens=kv_block_tokens,
        include=_scope(include),
        prefill_chunk=prefill_chunk,
        average_decode=average_decode,
        expert_shares=None if expert_shares is None else _shares(expert_shares),
        all_logits=all_logits,
        split=None if parallel is None else Split.parse(parallel),
    )
    costing = load_runtime(runtime).costing(costing)
    counts = {"batch": batch, "prompt_tokens": prompt_tokens, "new": new, "context": context}
    counts |= {"images": images, "steps": steps, "source_tokens": source_tokens}
    asked = Workload.of(**_given(counts))
    opened = open_any_model(model) if isinstance(model, str) else model
    workload = with_defaults(asked, opened, images=images, steps=steps, source_tokens=source_tokens)
    machine = load_machine(on, overrides or ())
    if costing.split is not None:
        several(machine)
    return Scenario(opened, machine, workload, costing)


def _given(counts: dict[str, int | None]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count is not None}


def _scope(text: str) -> Scope:
    for scope in SCOPES:
        if scope == text:
            return scope
    raise InputError(f"--include {text!r}: want one of {', '.join(SCOPES)}")


def _shares(path: Path) -> tuple[float, ...]:
    """Return the list of numbers that a JSON file holds; raise InputError for anything else."""
    with path.open("rb") as file:
        content = file.read(_LARGEST_SHARES_BYTES + 1)
    if len(content) > _LARGEST_SHARES_BYTES:
        raise InputError(f"--expert-shares {path}: larger than {format_bytes(_LARGEST_SHARES_BYTES)}")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"--expert-shares {path}: not JSON: {error}") from None
    numbers = found if isinstance(found, list) else []
    if not numbers or not all(type(x) in (int, float) and 0 <= x < 1e18 for x in numbers):
        raise InputError(f"--expert-shares {path}: want a list of numbers, 0 or more, one per expert")
    return tuple(float(x) for x in numbers)


def _policy(text: str) -> ActivationPolicy:
    for policy in ACTIVATION_POLICIES:
        if policy == text:
            return policy
    raise InputError(f"--activation-policy {text!r}: want one of {', '.join(ACTIVATION_POLICIES)}")
