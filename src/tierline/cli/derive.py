"""`tierline derive`: the derivation of a plan, formula by formula with its numbers, as Markdown."""

import json

import typer

from tierline.cli import options
from tierline.scenario import scenario


def derive(
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
    kv_block_tokens: options.BlockTokensOption = 1,
    include: options.IncludeOption = "all",
    hoist: options.HoistOption = True,
    as_json: options.JsonOption = False,
) -> None:
    """Write the derivation of every figure of a plan as Markdown: assumptions, formulas, numbers, totals.

    Example: tierline derive smolvla --on alveo-u280 --weights int8 --activations int8 --kv int8 --images 1
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
        kv_block_tokens=kv_block_tokens,
        include=include,
        hoist=hoist,
    )
    from tierline.plan.build import plan_with
    from tierline.report.derivation import derive as derived
    from tierline.report.derivation_markdown import derivation_markdown

    planned = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    markdown = derivation_markdown(derived(planned))
    if as_json:
        from tierline.report.schema import plan_json

        typer.echo(json.dumps({"plan": plan_json(planned), "markdown": markdown}))
        return
    typer.echo(markdown, nl=False)
