"""The command line that gives a result again, from the options that were given."""

import shlex
from collections.abc import Iterator
from typing import Any

import typer


def command_line(call: typer.Context) -> str:
    """Return the words, quoted for a shell, that were given: the verb, its arguments, its options.

    Options that were left out stay so; arguments come first.
    """
    arguments: list[str] = []
    options: list[str] = []
    for parameter in call.command.params:
        source = call.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        value = call.params[parameter.name or ""]
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        else:
            options += _words(parameter, value)
    return shlex.join(["tierline", str(call.info_name), *arguments, *options])


def _words(option: Any, value: Any) -> Iterator[str]:  # noqa: ANN401 - typer has its own click, or click's
    """Yield an option as it is written: a switch alone, a list once per item."""
    if isinstance(value, bool):
        yield option.opts[0] if value else option.secondary_opts[0]
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        yield from (option.opts[0], str(item))
