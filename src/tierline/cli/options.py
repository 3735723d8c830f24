"""The options that verbs share; `tierline.scenario` says what they mean."""

from pathlib import Path
from typing import Annotated

import typer

from tierline.cost.activations import ACTIVATION_POLICIES
from tierline.cost.costing import SCOPES
from tierline.cost.training import CHECKPOINTINGS, OPTIMIZERS

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
ParallelOption = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        metavar="auto|tp=N,pp=N,ep=N,dp=N,...",
        help="Split over a machine's devices; also micro=N, layers=even|memory|A:B, zero=1 (training). "
        "In a list of sweep and find x joins: tp=8,tp=4xpp=2.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document in base units.")]
