"""`tierline advise`: what would help, and by how much."""

import json
from typing import Annotated, Any

import typer

from tierline.cli import options
from tierline.cli.axes import with_axes
from tierline.errors import InputError

AcceptOption = Annotated[
    float, typer.Option("--accept", help="Chance that a draft token is right, for speculation.", min=0, max=1)
]
DraftTimeOption = Annotated[str, typer.Option(metavar="TIME", help="Compute time of one draft token.")]


def _advise(
    model: options.ModelArgument,
    on: options.OnOption = "this",
    accept: AcceptOption = 0.7,
    draft_time: DraftTimeOption = "0s",
    as_json: options.JsonOption = False,
    axes: Any = None,  # noqa: ANN401 - filled in by with_axes
) -> None:
    """Simulate every change that might help, alone and together, and rank them by what they gain.

    A gain is how many times as many sequences are done in the same time, prompt included. Every line has the
    command that gives its figures.

    Example: tierline advise smolvlm2-256m --on nexys-video --weights mxfp8
    """
    from tierline.report.advise import advised_json, print_advised
    from tierline.search.advise import advise
    from tierline.search.axes import read_axes
    from tierline.search.case import Case
    from tierline.search.options import COUNTS, flag

    given = {"model": [model], "on": [on], **axes}
    for axis in read_axes(given).axes:
        if len(axis) > 1:
            raise InputError(f"{flag(axis.option)}: advise is about one value; sweep takes several")
    missing = [name for name in given if name not in _SIMULATED]
    if missing:
        raise InputError(f"{flag(missing[0])}: is no option of simulate, of which every line is a command")
    opened = Case({name: texts for name, texts in given.items() if name not in COUNTS})
    found = advise(given, opened.model, opened.asked.machine, accept=accept, draft_time=draft_time)
    if as_json:
        typer.echo(json.dumps(advised_json(found), indent=2))
    else:
        print_advised(found)


def _simulate_options() -> frozenset[str]:
    import inspect

    from tierline.cli.simulate import simulate

    return frozenset(inspect.signature(simulate).parameters)


_SIMULATED = _simulate_options()

advise = with_axes(_advise, "speculate", "accept", "draft_time")
