"""Options that take lists and ranges: those of `plan` and `simulate`, with the help that they have there."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from tierline.cli.plan import plan
from tierline.cli.simulate import simulate
from tierline.search.options import COUNTS, KEYED, PROGRAM, RESIDENT, flag, known_options

_OWN = ("model", "on")
_HELP = {
    RESIDENT: "Most weight bytes held at once, staging included; what is left if not given.",
    PROGRAM: "Instructions kept in the fast tier.",
}


def axis_options() -> tuple[str, ...]:
    """Return the options that can be axes, model and machine apart, counts last: these vary fastest."""
    names = [name for name in known_options() if name not in _OWN]
    return (*(n for n in names if n not in COUNTS), *(n for n in names if n in COUNTS))


def with_axes(function: Callable[..., None], *taken: str) -> Callable[..., None]:
    """Return a verb that takes every option that can be an axis beside its own, for its `axes` parameter.

    Options in `taken` are the verb's own.
    """
    own = inspect.signature(function).parameters
    names = [name for name in axis_options() if name not in taken and name not in own]

    def verb(**values: Any) -> None:  # noqa: ANN401 - what typer read
        given = {name: values.pop(name) for name in names}
        texts = {n: [v] if isinstance(v, str) else list(v) for n, v in given.items() if v}
        function(**values, axes=texts)

    parameters = [p for name, p in own.items() if name != "axes"]
    parameters += [_parameter(name) for name in names]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    verb.__doc__, verb.__name__ = function.__doc__, function.__name__
    return verb


def _parameter(name: str) -> inspect.Parameter:
    several = name in KEYED or name == "phase"
    metavar = "NAME=VALUES" if name in KEYED else "VALUES"
    option = typer.Option(flag(name), metavar=metavar, help=_help_of(name), rich_help_panel="Axes")
    annotation = Annotated[list[str] | None, option] if several else Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help_of(name: str) -> str:
    """Return the help that an option has in the verbs that take one value of it."""
    if name in _HELP:
        return _HELP[name]
    parameters: Mapping[str, inspect.Parameter] = {
        **inspect.signature(simulate).parameters,
        **inspect.signature(plan).parameters,
    }
    found = parameters.get(name)
    infos = [x for x in get_args(found.annotation) if isinstance(x, OptionInfo)] if found else []
    return (infos[0].help if infos else None) or ""
