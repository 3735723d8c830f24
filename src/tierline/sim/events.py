"""A simulated timeline as the trace events that the run engine emits too."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tierline.sim.pipeline import Pass, Timeline
from tierline.trace import Activity, TraceEvent

if TYPE_CHECKING:
    from tierline.sim.simulate import SimResult


def trace_events(result: "SimResult") -> Iterator[TraceEvent]:
    """Yield every transfer, wait, slot and step, in order of its start."""
    yield from timeline_events([p.steps for p in result.schedule.passes], result.timeline)


def timeline_events(passes: Sequence[Pass], timeline: Timeline) -> Iterator[TraceEvent]:
    """Yield the same of `passes` and the times at which they were executed."""
    events = [*_compute(passes, timeline), *_links(timeline), *_slots(passes, timeline)]
    yield from sorted(events, key=lambda e: (e.start_s, e.resource, e.end_s))


def _compute(passes: Sequence[Pass], timeline: Timeline) -> Iterator[TraceEvent]:
    names = [name for p in passes for name in p.names]
    before = 0.0
    for name, start, end in zip(names, timeline.starts, timeline.ends, strict=True):
        if start > before:
            yield TraceEvent("compute", "wait", name, before, start)
        yield TraceEvent("compute", "compute", name, start, end)
        before = end


def _links(timeline: Timeline) -> Iterator[TraceEvent]:
    for t in timeline.transfers:
        activity: Activity = "write" if t.written else "load" if t.fetch.cause == "cold load" else "read"
        yield TraceEvent(f"link:{t.link}", activity, t.fetch.name, t.start, t.end, t.fetch.traffic_bytes)


def _slots(passes: Sequence[Pass], timeline: Timeline) -> Iterator[TraceEvent]:
    """Yield how long each staging slot holds what was fetched into it: from first byte to last use."""
    begun: dict[int, float] = {}
    for t in timeline.transfers:
        if not t.written and not t.fetch.on_demand:
            begun[t.step] = min(begun.get(t.step, t.start), t.start)
    fetches = [f for p in passes for f in p.fetches]
    free: list[float] = []
    for step in sorted(begun):
        fetch = fetches[step]
        end = timeline.ends[step]
        slot = next((i for i, until in enumerate(free) if until <= begun[step]), len(free))
        if slot == len(free):
            free.append(end)
        free[slot] = end
        if fetch is not None:
            yield TraceEvent(f"slot {slot}", "hold", fetch.name, begun[step], end, fetch.traffic_bytes)
