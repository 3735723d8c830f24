"""`tierline roofline`: operational intensity of every operation against every ceiling and link."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from tierline.cli import options
from tierline.cli.asking import Asked, asks
from tierline.cli.figures import PlotOption, check_plot
from tierline.cli.figures import plot as draw_plot
from tierline.cost.costing import Costing
from tierline.errors import InputError
from tierline.formats.precision import Precision

if TYPE_CHECKING:
    from tierline.report.roofline import Roofline

PhaseOption = Annotated[list[str] | None, typer.Option(help="Only this phase; repeatable.")]
FormatsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FMT,...", help="Operands in each of these formats, in place of --weights and others."
    ),
]
MOST_FORMATS = 6


@asks(
    "source_tokens",
    "prefill_chunk",
    "average_decode",
    "kv_block_tokens",
    "expert_shares",
    "runtime",
    "all_logits",
    "parallel",
    activation_policy="materialised",
)
def roofline(
    asked: Asked,
    phase: PhaseOption = None,
    formats: FormatsOption = None,
    plot: PlotOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Every operation's intensity, what it can attain over each link, and what binds it.

    Example: tierline roofline smolvla --on alveo-u280 --formats int8,bf16 --phase vision --plot vision.png
    """
    check_plot(plot)
    named = asked.scenario()
    from tierline.report.figures.roofline import roofline_chart
    from tierline.report.roofline import build_roofline

    costings = _costings(named.costing, formats)
    built = build_roofline(named.model, named.machine, named.workload, costings, phase or ())
    draw_plot(plot, lambda: roofline_chart(built))
    _show(built, as_json=as_json)


def _costings(costing: Costing, formats: str | None) -> list[Costing]:
    """Return the costing in each of the formats, or as it is where none are given."""
    if formats is None:
        return [costing]
    names = list(dict.fromkeys(formats.split(",")))
    if len(names) > MOST_FORMATS:
        raise InputError(
            f"--formats: {len(names)} formats are more than the {MOST_FORMATS} that a plot can show"
        )
    precisions = [Precision.of(weights=name, kv=name, activations=name) for name in names]
    return [replace(costing, precision=replace(p, keep=costing.precision.keep)) for p in precisions]


def _show(built: "Roofline", *, as_json: bool) -> None:
    from tierline.report.roofline_show import print_roofline, roofline_json

    if as_json:
        typer.echo(json.dumps(roofline_json(built), indent=2))
    else:
        print_roofline(built)
