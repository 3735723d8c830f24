"""`tierline derive`: the derivation of a plan, formula by formula with its numbers, as Markdown."""

import json

import typer

from tierline.cli import options
from tierline.cli.asking import Asked, asks


@asks(
    "source_tokens", "prefill_chunk", "average_decode", "expert_shares", "runtime", "all_logits", "parallel"
)
def derive(
    asked: Asked,
    as_json: options.JsonOption = False,
) -> None:
    """Write the derivation of every figure of a plan as Markdown: assumptions, formulas, numbers, totals.

    Example: tierline derive smolvla --on alveo-u280 --weights int8 --activations int8 --kv int8 --images 1
    """
    named = asked.scenario()
    from tierline.plan.build import plan_with
    from tierline.report.derivation import derive as derived
    from tierline.report.derivation_markdown import derivation_markdown

    planned = plan_with(named.model, named.machine, named.workload, named.costing)
    markdown = derivation_markdown(derived(planned))
    if as_json:
        from tierline.report.schema import plan_json

        typer.echo(json.dumps({"plan": plan_json(planned), "markdown": markdown}))
        return
    typer.echo(markdown, nl=False)
