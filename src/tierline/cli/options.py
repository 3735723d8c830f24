"""The options that verbs share, and the one way from them to a model, a machine and what is asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from tierline.cost.activations import ACTIVATION_POLICIES, ActivationPolicy
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.machines.machine import Machine
from tierline.models.description import Model
from tierline.models.open import open_model
from tierline.models.workload import Workload

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A catalogue name, a config.json, a model directory or file."),
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
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document in base units.")]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the shared options name."""

    model: Model
    machine: Machine
    workload: Workload
    precision: Precision
    activation_policy: ActivationPolicy


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
) -> Scenario:
    """Return what the options name; raise InputError for whatever is unknown or inconsistent.

    Formats and counts are checked before the model and the machine are opened.
    """
    precision = Precision.of(weights=weights, kv=kv, activations=activations, keep=keep or ())
    policy = _policy(activation_policy)
    counts = {"batch": batch, "prompt_tokens": prompt_tokens, "new": new, "context": context}
    asked = Workload.of(**_given(counts), images=images or 0, steps=steps or 0)
    opened = open_model(model)
    workload = Workload.of(
        batch=batch,
        prompt_tokens=asked.prompt_tokens,
        new=asked.new,
        images=(1 if opened.image_tokens else 0) if images is None else images,
        steps=opened.default_steps if steps is None else steps,
    )
    return Scenario(opened, load_machine(on, overrides or ()), workload, precision, policy)


def _given(counts: dict[str, int | None]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count is not None}


def _policy(text: str) -> ActivationPolicy:
    for policy in ACTIVATION_POLICIES:
        if policy == text:
            return policy
    raise InputError(f"--activation-policy {text!r}: want one of {', '.join(ACTIVATION_POLICIES)}")
