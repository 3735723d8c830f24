"""Every option that can be an axis: those of a scenario, of its plan and of its simulation, by name."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from tierline.errors import InputError
from tierline.scenario import scenario
from tierline.sim.options import simulation_options
from tierline.units import parse_bytes

# Options that take PATH=VALUE or CLASS=VALUE; each path or class is an axis of its own.
KEYED = ("overrides", "keep", "phase_strategy")
# What varies inside one costing: these are costed as arrays.
COUNTS = ("batch", "prompt_tokens", "new", "context", "images", "steps", "source_tokens")
RESIDENT, PROGRAM = "resident", "program"
# Options whose names on the command line are not their own.
_FLAGS = {"overrides": "set"}
_PLAIN = (str, int, float, bool, Path)


def flag(option: str) -> str:
    """Return an option as it is written on the command line: `prompt_tokens` is `--prompt-tokens`."""
    return "--" + _FLAGS.get(option, option).replace("_", "-")


def option_of(written: str) -> str:
    """Return the option that `prompt-tokens` or `--prompt-tokens` writes."""
    name = written.removeprefix("--").replace("-", "_")
    return next((option for option, short in _FLAGS.items() if short == name), name)


@cache
def scenario_options() -> Mapping[str, type]:
    """Return the options of a scenario and their types, model and machine first."""
    return _options_of(scenario)


@cache
def simulated_options() -> Mapping[str, type]:
    """Return the options of a simulation and their types; any of them asks for one."""
    return _options_of(simulation_options)


@cache
def known_options() -> Mapping[str, type]:
    """Return every option that can be an axis, and its type."""
    return {**scenario_options(), RESIDENT: str, PROGRAM: str, **simulated_options()}


def read_value(option: str, text: str) -> Any:  # noqa: ANN401 - whatever type the option has
    """Return what `text` means for `option`: `none` leaves it out; raise InputError for anything else."""
    kind = known_options()[option]
    if text == "none" or (option == "weights" and text == "stored"):
        return None
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"{flag(option)} {text[:40]!r}: want true or false")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{flag(option)} {text[:40]!r}: want a number") from None


def read_bytes(text: str) -> int | None:
    """Return the bytes that an option such as --resident names; None for `none`."""
    return None if text == "none" else parse_bytes(text)


def _options_of(function: Any) -> dict[str, type]:  # noqa: ANN401 - any function
    return {name: _kind(p.annotation) for name, p in inspect.signature(function).parameters.items()}


def _kind(annotation: Any) -> type:  # noqa: ANN401 - any annotation
    """Return the type of one value: that of the elements where several may be given."""
    choices = [a for a in get_args(annotation) if a is not NoneType] or [annotation]
    found = get_args(choices[0])[0] if get_origin(choices[0]) is Sequence else choices[0]
    if get_origin(annotation) is Sequence:
        found = get_args(annotation)[0]
    if found not in _PLAIN:
        raise TypeError(f"no axis can be read for {annotation}")
    return found  # type: ignore[no-any-return]  # one of _PLAIN
