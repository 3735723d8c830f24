"""`tierline plan`: does it fit, where does every byte live, how fast can it go, and what to change."""

import json

import typer

from tierline.cli import options
from tierline.cli.options import scenario
from tierline.plan.build import build_plan


def plan(
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
    as_json: options.JsonOption = False,
) -> None:
    """Does it fit, where does every byte live, how many bytes cross each link, how fast, what to change.

    Example: tierline plan smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --context 1024
    """
    asked = scenario(
        model,
        on,
        overrides=overrides,
        weights=weights,
        kv=kv,
        activations=activations,
        activation_policy=activation_policy,
        keep=keep,
        batch=batch,
        prompt_tokens=prompt_tokens,
        new=new,
        context=context,
        images=images,
        steps=steps,
    )
    planned = build_plan(
        asked.model,
        asked.machine,
        asked.workload,
        asked.precision,
        activation_policy=asked.activation_policy,
    )
    if as_json:
        from tierline.report.schema import plan_json

        typer.echo(json.dumps(plan_json(planned), indent=2))
        return
    from tierline.report.tables import print_plan

    print_plan(planned)
