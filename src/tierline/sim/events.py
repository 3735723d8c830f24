"""A simulated timeline as the trace events that the run engine emits too."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tierline.trace import Activity, TraceEvent

if TYPE_CHECKING:
    from tierline.sim.simulate import SimResult


def trace_events(result: "SimResult") -> Iterator[TraceEvent]:
    """Yield every transfer, wait, slot and step, in order of its start."""
    events = [*_compute(result), *_links(result), *_slots(result)]
    yield from sorted(events, key=lambda e: (e.start_s, e.resource, e.end_s))


def _compute(result: "SimResult") -> Iterator[TraceEvent]:
    timeline = result.timeline
    names = [name for p in result.schedule.passes for name in p.steps.names]
    before = 0.0
    for name, start, end in zip(names, timeline.starts, timeline.ends, strict=True):
        if start > before:
            yield TraceEvent("compute", "wait", name, before, start)
        yield TraceEvent("compute", "compute", name, start, end)
        before = end


def _links(result: "SimResult") -> Iterator[TraceEvent]:
    for t in result.timeline.transfers:
        activity: Activity = "write" if t.written else "load" if t.fetch.cause == "cold load" else "read"
        yield TraceEvent(f"link:{t.link}", activity, t.fetch.name, t.start, t.end, t.fetch.traffic_bytes)


def _slots(result: "SimResult") -> Iterator[TraceEvent]:
    """Yield how long each staging slot holds what was fetched into it: from first byte to last use."""
    begun: dict[int, float] = {}
    for t in result.timeline.transfers:
        if not t.written and not t.fetch.on_demand:
            begun[t.step] = min(begun.get(t.step, t.start), t.start)
    fetches = [f for p in result.schedule.passes for f in p.steps.fetches]
    free: list[float] = []
    for step in sorted(begun):
        fetch = fetches[step]
        end = result.timeline.ends[step]
        slot = next((i for i, until in enumerate(free) if until <= begun[step]), len(free))
        if slot == len(free):
            free.append(end)
        free[slot] = end
        if fetch is not None:
            yield TraceEvent(f"slot {slot}", "hold", fetch.name, begun[step], end, fetch.traffic_bytes)
