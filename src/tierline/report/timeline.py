"""A simulation as a picture: the last pass on a time axis, and what the fast tier holds over time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierline.errors import InputError
from tierline.sim.simulate import SimResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "compute": "tab:green",
    "wait": "tab:red",
    "read": "tab:blue",
    "load": "tab:purple",
    "write": "tab:orange",
    "hold": "tab:gray",
}


def plot_simulation(result: SimResult, path: Path) -> None:
    """Draw the timeline of the last pass and the residency over time into `path`, by its suffix.

    Raises InputError where matplotlib is not installed or does not write that format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'tierline[plot]'") from None
    figure = Figure(figsize=(12, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    _last_pass(upper, result)
    _residency(lower, result)
    figure.suptitle(f"{result.plan.model.name} on {result.plan.machine.name}: {result.strategy}")
    try:
        figure.savefig(path)
    except ValueError as error:  # an unknown suffix
        raise InputError(f"--plot {path}: {error}") from None


def _last_pass(axes: "Axes", result: SimResult) -> None:
    start = result.time_s - result.phases[-1].pass_times_s[-1]
    rows: dict[str, int] = {}
    for event in result.events:
        if event.end_s <= start:
            continue
        row = rows.setdefault(event.resource, len(rows))
        left = max(event.start_s, start)
        axes.barh(row, event.end_s - left, left=left - start, color=_COLOURS[event.activity], height=0.8)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("seconds of the last pass")
    handles: list[Any] = [axes.barh(0, 0, color=colour) for colour in _COLOURS.values()]
    axes.legend(handles, list(_COLOURS), ncols=len(_COLOURS), loc="upper right", fontsize="small")


def _residency(axes: "Axes", result: SimResult) -> None:
    ends, elapsed = [], 0.0
    for phase in result.phases:
        for seconds in phase.pass_times_s:
            elapsed += seconds
            ends.append(elapsed)
    parts = {
        "other": [p.others_bytes for p in result.schedule.passes],
        "KV": [p.kv_bytes for p in result.schedule.passes],
        "staging": [p.staging_bytes for p in result.schedule.passes],
        "weights": [p.weights_bytes for p in result.schedule.passes],
    }
    scaled = [[count / 2**20 for count in counts] for counts in parts.values()]
    axes.stackplot(ends, *scaled, labels=list(parts))
    tier = result.plan.machine.fast
    axes.axhline(tier.capacity_bytes.value / 2**20, color="black", linestyle="--", label="capacity")
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"MiB in {tier.name}")
    axes.legend(loc="lower right", fontsize="small")
