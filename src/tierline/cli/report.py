"""`tierline report`: a plan as one HTML file that opens anywhere."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli import options
from tierline.cli.command import command_line
from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.plan.build import plan_with
from tierline.plan.runtime import DEFAULT_RUNTIME
from tierline.plan.sensitivity import DEFAULT_FORMATS
from tierline.plan.sensitivity import sensitivity as find_sensitivity
from tierline.scenario import scenario
from tierline.units import format_bytes

SUFFIXES = (".html", ".htm")

OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the report goes.")]


def report(
    call: typer.Context,
    model: options.ModelArgument,
    on: options.OnOption = "this",
    output: OutputOption = Path("report.html"),
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
    as_json: options.JsonOption = False,
) -> None:
    """Write a plan as one HTML file: verdict, memory map, traffic, roofline, timeline, derivation, sources.

    Example: tierline report smolvlm2-256m --on nexys-video --weights mxfp8:block=8 -o report.html
    """
    from tierline.report.html import check_report, report_html
    from tierline.report.schema import plan_json

    if output.suffix not in SUFFIXES:
        raise InputError(f"-o {output}: want a file that ends in {' or '.join(SUFFIXES)}")
    check_report()
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
        source_tokens=source_tokens,
        prefill_chunk=prefill_chunk,
        average_decode=average_decode,
        kv_block_tokens=kv_block_tokens,
        include=include,
        hoist=hoist,
        expert_shares=expert_shares,
        runtime=runtime,
        all_logits=all_logits,
    )
    planned = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    kept = find_sensitivity(planned, [parse_format(name) for name in DEFAULT_FORMATS])
    made = report_html(planned, command_line(call), kept)
    output.write_text(made, encoding="utf-8")
    count = output.stat().st_size
    if as_json:
        typer.echo(json.dumps({"report": str(output), "report_bytes": count, "plan": plan_json(planned)}))
    else:
        sys.stdout.write(f"wrote {output} ({format_bytes(count)})\n")
