"""What the simulator and the engine both emit: who did what, when."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Activity = Literal["read", "wait", "compute", "load", "write", "hold", "hit", "miss"]


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
    """Return the events of one process as `chrome_traces` does."""
    return chrome_traces({process: events})


def chrome_traces(processes: Mapping[str, Iterable[TraceEvent]]) -> dict[str, object]:
    """Return the events in the Trace Event Format that Perfetto and chrome://tracing open.

    One row per resource of each process, in order of first use; processes lie over one another on one axis
    of time, in microseconds, as the format has it. Source: Google, "Trace Event Format" (complete events `X`,
    metadata events `M`).
    """
    named: list[dict[str, object]] = []
    complete: list[dict[str, object]] = []
    for pid, (process, events) in enumerate(processes.items(), 1):
        rows: dict[str, int] = {}
        for event in events:
            row = rows.setdefault(event.resource, len(rows) + 1)
            complete.append(_complete(event, pid, row))
        named.append(_metadata("process_name", pid, 0, process))
        named += (_metadata("thread_name", pid, row, name) for name, row in rows.items())
    return {"traceEvents": [*named, *complete], "displayTimeUnit": "ms"}


def _complete(event: TraceEvent, pid: int, row: int) -> dict[str, object]:
    return {
        "ph": "X",
        "pid": pid,
        "tid": row,
        "name": event.name,
        "cat": event.activity,
        "ts": event.start_s * 1e6,
        "dur": (event.end_s - event.start_s) * 1e6,
        "args": {"activity": event.activity, "traffic_bytes": event.traffic_bytes},
    }


def _metadata(kind: str, pid: int, row: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": pid, "tid": row, "name": kind, "args": {"name": name}}
