"""The options that all verbs about a model on a machine share, written once."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tierline.cli import options
from tierline.plan.runtime import DEFAULT_RUNTIME
from tierline.scenario import Scenario, scenario

Verb = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the shared options were given; `scenario` opens the model and the machine that they name."""

    options: Mapping[str, Any]

    def scenario(self, **changes: Any) -> Scenario:  # noqa: ANN401 - the options of scenario()
        """Return what the options name, some of them changed; raises InputError as `scenario` does."""
        given = {**self.options, **changes}
        return scenario(given.pop("model"), given.pop("on"), **given)


def asks(*without: str, **defaults: object) -> Callable[[Verb], Verb]:
    """Return a decorator: the verb takes the shared options in place of its parameter `asked`, an `Asked`.

    It does not take those in `without`; `defaults` are the verb's own.
    """
    shared = [
        p.replace(default=defaults.get(name, p.default), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, p in inspect.signature(_shared).parameters.items()
        if name not in without
    ]

    def decorate(verb: Verb) -> Verb:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, p in inspect.signature(verb).parameters.items()
            if name != "asked"
        ]

        def asking(**values: Any) -> None:  # noqa: ANN401 - what typer read
            verb(asked=Asked({p.name: values.pop(p.name) for p in shared}), **values)

        parameters = [*shared, *own]
        asking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        asking.__annotations__ = {p.name: p.annotation for p in parameters}
        asking.__doc__, asking.__name__, asking.__module__ = verb.__doc__, verb.__name__, verb.__module__
        return asking

    return decorate


def _shared(
    model: options.ModelArgument,
    on: options.OnOption = "this",
    overrides: options.SetOption = None,
    weights: options.WeightsOption = None,
    kv: options.KvOption = "bf16",
    activations: options.ActivationsOption = "bf16",
    activation_policy: options.PolicyOption = "fused",
    keep: options.KeepOption = None,
    batch: options.BatchOption = 1,
    prompt_tokens: options.PromptTokensOption = None,
    new: options.NewOption = None,
    context: options.ContextOption = None,
    images: options.ImagesOption = None,
    steps: options.StepsOption = None,
    source_tokens: options.SourceTokensOption = None,
    prefill_chunk: options.ChunkOption = None,
    average_decode: options.AverageOption = False,
    kv_block_tokens: options.BlockTokensOption = 1,
    include: options.IncludeOption = "all",
    hoist: options.HoistOption = True,
    expert_shares: options.SharesOption = None,
    runtime: options.RuntimeOption = DEFAULT_RUNTIME,
    all_logits: options.AllLogitsOption = False,
    parallel: options.ParallelOption = None,
) -> None:
    """Name the shared options, their kinds and defaults; `asks` gives them to verbs."""
