"""`tierline find`: what meets a goal, and where the boundary is."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tierline.cli import options
from tierline.cli.axes import with_axes
from tierline.errors import InputError

VaryOption = Annotated[
    str,
    typer.Option(
        metavar="WHAT,...",
        help="link, memory or a count such as context or batch; and weights or kv, for several formats.",
    ),
]
TargetOption = Annotated[
    str | None, typer.Option(metavar="RATE", help="At least so fast: 10tok/s, 3actions/s, 20passes/s.")
]
LatencyOption = Annotated[str | None, typer.Option(metavar="TIME", help="At most so long for a pass: 50ms.")]
FirstTokenOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="At most so long until the first token.")
]
FitsOption = Annotated[bool, typer.Option("--fits", help="All of it resident in the fast tier.")]
LinkOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which link to vary; the one that binds if not given.")
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option("--price", metavar="MACHINE=N", help="What a machine costs; repeatable."),
]


def _find(
    model: options.ModelArgument,
    on: options.OnOption = "this",
    target: TargetOption = None,
    latency: LatencyOption = None,
    first_token: FirstTokenOption = None,
    fits: FitsOption = False,
    vary: VaryOption = "",
    link: LinkOption = None,
    price: PriceOption = None,
    as_json: options.JsonOption = False,
    axes: Any = None,  # noqa: ANN401 - filled in by with_axes
) -> None:
    """Find the boundary at which a goal is met: the least link or memory, the largest context or batch.

    MODEL, MACHINE and every option of plan may be lists: each combination is answered. Figures are those of
    plans, so at best; a count, a rate and a capacity are exact.

    Example: tierline find smolvlm2-256m --on nexys-video --target 10tok/s --vary weights,link
    """
    from tierline.report.find import answer_json, method, read_prices, sentence
    from tierline.search.axes import read_axes
    from tierline.search.find import LINK, best, find
    from tierline.search.goal import Goal
    from tierline.search.options import simulated_options

    goal = Goal.of(target, latency, first_token, fits=fits)
    given: dict[str, list[str]] = {"model": [model], "on": [on], **axes}
    simulated = [name for name in given if name in simulated_options()]
    if simulated:
        raise InputError(f"--{simulated[0].replace('_', '-')}: find asks plans; use sweep for simulations")
    varied = _varied(vary, given)
    if varied in given:
        raise InputError(f"--vary {varied}: is what is looked for; leave out its values")
    if link is not None and varied != LINK:
        raise InputError("--link does nothing without --vary link")
    space = read_axes(given)
    prices = _prices(given, read_prices(price or []))
    answers = list(find(space, goal, varied, link=link))
    chosen = best(answers, prices)
    if as_json:
        rows = [answer_json(a, goal, prices) for a in answers]
        first = answers.index(chosen) if chosen is not None else None
        typer.echo(json.dumps({"goal": str(goal), "best": first, "answers": rows}, indent=2))
        return
    if chosen is not None:
        typer.echo(sentence(chosen, goal, prices))
    for answer in answers:
        if answer is not chosen:
            typer.echo(("- " if chosen is not None else "") + sentence(answer, goal, prices))
    for note in dict.fromkeys(filter(None, map(method, answers))):
        typer.echo(note)


def _varied(vary: str, given: dict[str, list[str]]) -> str | None:
    """Return what is varied along a scale; what is varied by name gets its values in `given`."""
    from tierline.search.find import LADDERS, LINK, MEMORY
    from tierline.search.options import COUNTS, option_of

    varied = None
    for name in (option_of(text.strip()) for text in vary.split(",") if text):
        if name in LADDERS:
            given.setdefault(name, [",".join(LADDERS[name])])
        elif name in ("machine", "on"):
            given["on"] = ["all"] if given["on"] == ["this"] else given["on"]
        elif name not in (LINK, MEMORY, *COUNTS):
            known = ", ".join((LINK, MEMORY, *LADDERS, "machine", *COUNTS))
            raise InputError(f"--vary {name[:40]!r}: want {known}")
        elif varied is not None:
            raise InputError(f"--vary {varied},{name}: only one can be looked for; give the other as a list")
        else:
            varied = name
    return varied


def _prices(given: Mapping[str, list[str]], told: dict[str, float]) -> dict[str, float]:
    """Return what machines cost: as told, else as their files say."""
    from tierline.errors import TierlineError
    from tierline.machines.load import load_machine
    from tierline.search.axes import read_axes

    machines = [str(value) for value in read_axes({"on": given["on"]}).axes[0].values]
    for name in told:
        if name not in machines:
            raise InputError(f"--price {name[:60]}: is none of the machines that are asked about")
    for name in machines:
        try:
            price = load_machine(name).price
        except (TierlineError, OSError):
            continue
        if price is not None:
            told.setdefault(name, price.value)
    return told


find = with_axes(_find)
