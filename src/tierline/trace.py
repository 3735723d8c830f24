"""What the simulator and the engine both emit: who did what, when."""

from dataclasses import dataclass
from typing import Literal

Activity = Literal["read", "wait", "compute", "load"]


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One stretch of work on one resource (`disk`, `compute`, `slot 0`), times in seconds from the start."""

    resource: str
    activity: Activity
    name: str
    start_s: float
    end_s: float
    traffic_bytes: int = 0
