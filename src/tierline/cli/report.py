"""`tierline report`: a plan as one HTML file that opens anywhere."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli import options
from tierline.cli.asking import Asked, asks
from tierline.cli.command import command_line
from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.plan.build import plan_with
from tierline.plan.sensitivity import DEFAULT_FORMATS
from tierline.plan.sensitivity import sensitivity as find_sensitivity
from tierline.units import format_bytes

SUFFIXES = (".html", ".htm")

OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the report goes.")]


@asks("parallel")
def report(
    call: typer.Context,
    asked: Asked,
    output: OutputOption = Path("report.html"),
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
    named = asked.scenario()
    planned = plan_with(named.model, named.machine, named.workload, named.costing)
    kept = find_sensitivity(planned, [parse_format(name) for name in DEFAULT_FORMATS])
    made = report_html(planned, command_line(call), kept)
    output.write_text(made, encoding="utf-8")
    count = output.stat().st_size
    if as_json:
        typer.echo(json.dumps({"report": str(output), "report_bytes": count, "plan": plan_json(planned)}))
    else:
        sys.stdout.write(f"wrote {output} ({format_bytes(count)})\n")
