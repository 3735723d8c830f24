"""`--auto` of the verbs that have it: the search, and what it says of itself."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tierline.errors import InputError

if TYPE_CHECKING:
    from tierline.search.auto import Chosen

AutoOption = Annotated[
    bool,
    typer.Option(
        "--auto", help="Choose placement, depth, prefill chunk and batch by search; what is given is kept."
    ),
]


def chosen_for(called: typer.Context, known: Collection[str]) -> "Chosen":
    """Return the search's choice around what a verb was called with, as far as it is in `known`.

    What was given is kept, a default that was written out included. Raises InputError for several devices.
    """
    from tierline.search.auto import choose
    from tierline.search.options import flag

    given: dict[str, tuple[str, ...]] = {name: (called.params[name],) for name in ("model", "on")}
    for name, value in called.params.items():
        source = called.get_parameter_source(name)
        if name not in known or value is None or source is None or source.name == "DEFAULT":
            continue
        texts = value if isinstance(value, list | tuple) else (value,)
        given[name] = tuple(str(x).lower() if isinstance(x, bool) else str(x) for x in texts)
    if "parallel" in given:
        raise InputError(f"{flag('parallel')}: its placement is its own; leave it out, or --auto")
    return choose(given)


def said(chosen: "Chosen") -> str:
    """Return in a line what was chosen."""
    from tierline.search.options import flag

    words = [f"{flag(name)} {texts[0]}" for name, texts in chosen.options.items()]
    return f"auto: {', '.join(words) or 'as it is'} (the fastest of {chosen.tried} simulated)"


def auto_json(chosen: "Chosen") -> dict[str, Any]:
    """Return what was chosen, and the command that does the same."""
    options = {name: texts[0] for name, texts in chosen.options.items()}
    return {"options": options, "simulated": chosen.tried, "command": chosen.command}
