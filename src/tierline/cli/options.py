"""The options that verbs share, and the one way from them to a model, a machine and what is asked of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from tierline.cost.activations import ACTIVATION_POLICIES, ActivationPolicy
from tierline.cost.costing import SCOPES, Costing, Scope
from tierline.cost.training import CHECKPOINTINGS, OPTIMIZERS
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.machines.machine import Machine
from tierline.models.description import Model
from tierline.models.workload import Workload
from tierline.plan.runtime import DEFAULT_RUNTIME, load_runtime
from tierline.probe.open import open_any_model
from tierline.units import MIB, format_bytes

MOST_TOKENS = 10**9
_LARGEST_SHARES_BYTES = MIB

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A catalogue name, a config.json, a model directory or file, or a hub id."
    ),
]
OnOption = Annotated[
    str, typer.Option("--on", metavar="MACHINE", help="A catalogue name, a TOML file, or `this`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a number of the machine; repeatable."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="FMT", help="Format of the weights, such as mxfp8:block=8; as stored if not given."),
]
KvOption = Annotated[str, typer.Option(metavar="FMT", help="Format of the KV cache.")]
ActivationsOption = Annotated[str, typer.Option(metavar="FMT", help="Format of the activations.")]
PolicyOption = Annotated[
    str,
    typer.Option(metavar="|".join(ACTIVATION_POLICIES), help="Which activations cross the fast memory."),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CLASS=FMT", help="Another format for a class or component; repeatable."),
]
BatchOption = Annotated[int, typer.Option(help="Sequences at once.")]
PromptTokensOption = Annotated[int | None, typer.Option(help="Rows of the prompt, image tokens included.")]
NewOption = Annotated[int | None, typer.Option(help="Tokens to generate.")]
ContextOption = Annotated[int | None, typer.Option(help="Prompt and new tokens together.")]
ImagesOption = Annotated[
    int | None, typer.Option(help="Images; 1 if not given and the model has a vision part.")
]
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps; the model's own if not given.")]
SourceTokensOption = Annotated[
    int | None, typer.Option(help="Rows of a separate encoder; those of the prompt if not given.")
]
ChunkOption = Annotated[
    int | None, typer.Option("--prefill-chunk", help="Rows of the prompt per pass; all at once if not given.")
]
AverageOption = Annotated[
    bool,
    typer.Option("--average-decode", help="Cost each new token at its own context, not all at the last."),
]
BlockTokensOption = Annotated[int, typer.Option("--kv-block-tokens", help="Tokens per page of the KV cache.")]
IncludeOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(SCOPES), help="Whose traffic counts: all, or the matrices of layers that attend."
    ),
]
HoistOption = Annotated[
    bool,
    typer.Option("--hoist/--no-hoist", help="Compute what is the same in every pass once per phase."),
]
SharesOption = Annotated[
    Path | None,
    typer.Option("--expert-shares", help="A JSON list: how often each expert is visited; uniform if none."),
]
RuntimeOption = Annotated[
    str,
    typer.Option("--runtime", help="What runs it: bare, transformers, transformers-eager, llama.cpp, vllm."),
]
AllLogitsOption = Annotated[
    bool, typer.Option("--all-logits", help="Logits of every position of the prompt, not of the last alone.")
]
TrainingOption = Annotated[
    str | None,
    typer.Option(
        "--training",
        metavar="|".join((*OPTIMIZERS, "lora:rank=R")),
        help="Plan a training step on prompts of --prompt-tokens instead of inference.",
    ),
]
CheckpointingOption = Annotated[
    str | None,
    typer.Option(
        "--checkpointing",
        metavar="|".join(CHECKPOINTINGS),
        help="Activations that a training step computes again; none if not given.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document in base units.")]


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
    model: str,
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
) -> Scenario:
    """Return what the options name; raise InputError for whatever is unknown or inconsistent.

    Formats and counts are checked before the model and the machine are opened.
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
    )
    costing = load_runtime(runtime).costing(costing)
    counts = {"batch": batch, "prompt_tokens": prompt_tokens, "new": new, "context": context}
    counts |= {"images": images, "steps": steps, "source_tokens": source_tokens}
    asked = Workload.of(**_given(counts))
    opened = open_any_model(model)
    workload = _filled(asked, opened, images=images, steps=steps, source_tokens=source_tokens)
    return Scenario(opened, load_machine(on, overrides or ()), workload, costing)


def _filled(
    asked: Workload, model: Model, *, images: int | None, steps: int | None, source_tokens: int | None
) -> Workload:
    """Return `asked` with what is not given as the model has it: one image if it sees, its own steps."""
    phases = {phase.name for phase in model.phases}
    sees, encodes = model.image_tokens > 0 or "vision" in phases, "encode" in phases
    return replace(
        asked,
        images=int(sees) if images is None else images,
        steps=model.default_steps if steps is None else steps,
        source_tokens=asked.prompt_tokens * encodes if source_tokens is None else source_tokens,
    )


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
