"""The command line that gives a result again, from the options that were in force."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, get_type_hints

from typer.models import ArgumentInfo, OptionInfo


def command_line(verb: Callable[..., None], values: Mapping[str, object]) -> str:
    """Return the words, quoted for a shell, that call `verb` with `values` (by parameter name).

    Arguments come first; options at their defaults and those not in `values` are left out.
    """
    hints = get_type_hints(verb, include_extras=True)
    arguments: list[str] = []
    options: list[str] = []
    for name, parameter in signature(verb).parameters.items():
        how = next(iter(getattr(hints[name], "__metadata__", ())), None)
        value = values.get(name, parameter.default)
        if isinstance(how, ArgumentInfo):
            arguments.append(str(value))
        elif value != parameter.default and isinstance(how, OptionInfo):
            options += _words(name, how, value)
    return shlex.join(["tierline", verb.__name__, *arguments, *options])


def _words(name: str, how: OptionInfo, value: Any) -> Iterator[str]:  # noqa: ANN401 - whatever options hold
    """Yield an option as it is written: a switch alone, a list once per item."""
    declared = (how.param_decls or ("--" + name.replace("_", "-"),))[0]
    on, _, off = declared.partition("/")
    if isinstance(value, bool):
        yield on if value else off
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from (on, str(item))
    else:
        yield from (on, str(value))
