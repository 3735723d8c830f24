"""Advice as a table with the command of every line, and as JSON."""

from typing import TYPE_CHECKING, Any

from tierline.search.advise import Advice, Advised
from tierline.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console


def advised_json(found: Advised) -> dict[str, Any]:
    """Return everything that was tried in base units; `command` gives the same `time_s` again."""
    return {
        "now": _json(found.now) if found.now else None,
        "reason": found.reason or None,
        "advice": [_json(advice) for advice in found.single],
        "no_gain": [_json(advice) for advice in found.useless],
        "combinations": [_json(advice) for advice in found.combinations],
    }


def print_advised(found: Advised, console: "Console | None" = None) -> None:
    """Print what helps, best first, what pays together, and what does not help."""
    from rich.console import Console

    out = console or Console(highlight=False, soft_wrap=True)
    if found.now is None:
        out.print(f"as it is it does not run: {found.reason}", markup=False)
    else:
        out.print(f"now: {_figures(found.now)}", markup=False)
        out.print(f"  {found.now.command}", markup=False)
    for title, advices in (("what helps", found.single), ("together", found.combinations)):
        if advices:
            out.print(f"{title}:", markup=False)
        for advice in advices:
            out.print(_line(advice), markup=False)
            out.print(f"          {advice.command}", markup=False)
    if found.useless:
        names = ", ".join(advice.changes[0].what for advice in found.useless)
        out.print(f"no gain: {names}", markup=False)


def _line(advice: Advice) -> str:
    gain = "   runs" if advice.gain is None else f"{advice.gain:6.2f}x"
    what = " + ".join(change.what for change in advice.changes)
    cost = advice.accuracy + (", to buy" if advice.buys else "")
    memory = ""
    if advice.added_bytes is not None:
        sign = "+" if advice.added_bytes >= 0 else "-"
        memory = f", {sign}{format_bytes(abs(advice.added_bytes))}"
    return f"{gain}   {what} ({cost}{memory}): {_figures(advice)}"


def _figures(advice: Advice) -> str:
    rate = f"{advice.tokens_per_s:.3g} tok/s, " if advice.tokens_per_s is not None else ""
    return f"{rate}{format_seconds(advice.sequence_s)} a sequence"


def _json(advice: Advice) -> dict[str, Any]:
    return {
        "changes": [change.what for change in advice.changes],
        "accuracy": advice.accuracy,
        "to_buy": advice.buys,
        "gain": advice.gain,
        "time_s": advice.time_s,
        "sequence_s": advice.sequence_s,
        "tokens_per_s_steady": advice.tokens_per_s,
        "added_bytes": advice.added_bytes,
        "command": advice.command,
    }
