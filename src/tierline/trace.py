"""What the simulator and the engine both emit: who did what, when."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Activity = Literal["read", "wait", "compute", "load", "write", "hold"]


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One stretch of work on one resource (`disk`, `compute`, `slot 0`), times in seconds from the start."""

    resource: str
    activity: Activity
    name: str
    start_s: float
    end_s: float
    traffic_bytes: int = 0


def chrome_trace(events: Iterable[TraceEvent], process: str) -> dict[str, object]:
    """Return the events in the Trace Event Format that Perfetto and chrome://tracing open.

    One row per resource, in order of first use, under one `process`; times in microseconds, as the format has
    them. Source: Google, "Trace Event Format" (complete events `X`, metadata events `M`).
    """
    rows: dict[str, int] = {}
    complete: list[dict[str, object]] = []
    for event in events:
        row = rows.setdefault(event.resource, len(rows) + 1)
        complete.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": row,
                "name": event.name,
                "cat": event.activity,
                "ts": event.start_s * 1e6,
                "dur": (event.end_s - event.start_s) * 1e6,
                "args": {"activity": event.activity, "traffic_bytes": event.traffic_bytes},
            }
        )
    named: list[dict[str, object]] = [_metadata("process_name", 0, process)]
    named += (_metadata("thread_name", row, name) for name, row in rows.items())
    return {"traceEvents": [*named, *complete], "displayTimeUnit": "ms"}


def _metadata(kind: str, row: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": 1, "tid": row, "name": kind, "args": {"name": name}}
