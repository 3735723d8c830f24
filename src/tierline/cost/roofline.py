"""Time: the slowest of compute and every link, or their sum where they share one memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierline.machines.machine import RateKind


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds that one resource (`compute` or `link:<name>`) is busy; None if its rate is not known."""

    resource: str
    time_s: float | None
    rate_kind: RateKind


def attainable(loads: Sequence[Load], *, shared_memory: bool) -> tuple[float, Load] | None:
    """Return the seconds that `loads` take together and the load that binds; None where a link is unknown.

    `T = max(compute, bytes over each link / its rate)` (Williams et al., Roofline, CACM 2009, with one roof
    per link): transfers and compute overlap. Where links and compute share one memory's bandwidth they do
    not, and `T` is the sum. A compute time that is not known is left out: T is then a lower bound.
    """
    if any(load.time_s is None and load.resource != "compute" for load in loads):
        return None
    known = [(load.time_s, load) for load in loads if load.time_s is not None]
    if not known:
        return None
    slowest, binding = max(known, key=lambda pair: pair[0])
    return (sum(time_s for time_s, _ in known) if shared_memory else slowest), binding
