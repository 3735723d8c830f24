"""The timeline of one token: what links, staging slots and compute do while it is made."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tierline.errors import InputError
from tierline.report.figures.figure import Lane, LaneGroup, Lanes, Paint, Span
from tierline.report.figures.palette import BLUE, GREEN, LIGHT, ORANGE, PURPLE, VERMILLION, seconds_axis
from tierline.sim.simulate import SimResult
from tierline.trace import TraceEvent
from tierline.units import format_bytes, format_rate, format_seconds

PAINTS = {
    "compute": Paint(GREEN),
    "wait": Paint(VERMILLION, "x"),
    "read": Paint(BLUE),
    "load": Paint(PURPLE, "\\"),
    "write": Paint(ORANGE, "/"),
    "hold": Paint(LIGHT, "."),
}
_MOST_SPANS = 600  # per lane: more are narrower than a pixel
_MOST_SLOTS = 4
_ORDER = {"compute": 0, "wait": 0, "read": 1, "load": 1, "write": 1, "hold": 2}


def token_timeline(result: SimResult, measured: Sequence[TraceEvent] = ()) -> Lanes:
    """Return the last pass of the main phase, simulated; below it that of `measured`, the events of a run.

    Spans too short to see are drawn with their neighbours, and say how many they are.
    """
    main = result.main
    end_s = main.start_s + sum(main.pass_times_s)
    windows = [("simulated", result.events, end_s - main.pass_times_s[-1], end_s)]
    if measured:
        windows.append(("measured", tuple(measured), *last_pass(measured)))
    return _lanes(f"{result.plan.model.name} on {result.plan.machine.name}: one pass of {main.name}", windows)


def run_timeline(title: str, runs: Mapping[str, Sequence[TraceEvent]]) -> Lanes:
    """Return the last pass of each run (`simulated`, `measured`), one below the other.

    Runs in which nothing was computed are left out.
    """
    known = {name: events for name, events in runs.items() if any(e.activity == "compute" for e in events)}
    return _lanes(title, [(name, tuple(events), *last_pass(events)) for name, events in known.items()])


def last_pass(events: Sequence[TraceEvent]) -> tuple[float, float]:
    """Return when the last pass of a run began and ended: what is computed first begins each pass.

    The time in which compute waits for that first step belongs to the pass. Raises InputError where
    nothing was computed.
    """
    computed = sorted((e for e in events if e.activity == "compute"), key=lambda e: e.start_s)
    if not computed:
        raise InputError("a timeline of a pass needs events in which something is computed")
    last = max(i for i, event in enumerate(computed) if event.name == computed[0].name)
    before_s = computed[last - 1].end_s if last else computed[last].start_s
    return before_s, computed[-1].end_s


def _lanes(title: str, windows: Sequence[tuple[str, Sequence[TraceEvent], float, float]]) -> Lanes:
    groups = tuple(_group(*window) for window in windows)
    used = {s.activity for group in groups for lane in group.lanes for s in lane.spans}
    paints = {name: paint for name, paint in PAINTS.items() if name in used}
    longest_s = max((end - start for _, _, start, end in windows), default=1.0)
    return Lanes(title, seconds_axis("time", longest_s), groups, paints)


def _group(name: str, events: Iterable[TraceEvent], start_s: float, end_s: float) -> LaneGroup:
    """Return the lanes of the events between two times: compute, then links, then slots."""
    by_resource: dict[str, list[TraceEvent]] = {}
    for event in events:
        if event.end_s > start_s and event.start_s < end_s:
            resource = "compute" if event.activity == "wait" else event.resource
            by_resource.setdefault(resource, []).append(event)
    least_s = (end_s - start_s) / _MOST_SPANS
    by_resource = _few_slots(by_resource)
    ordered = sorted(by_resource.items(), key=lambda item: (_ORDER[item[1][0].activity], item[0]))
    return LaneGroup(
        name, tuple(Lane(n, tuple(_spans(found, start_s, end_s, least_s))) for n, found in ordered)
    )


def _few_slots(by_resource: dict[str, list[TraceEvent]]) -> dict[str, list[TraceEvent]]:
    """Return the same with all slots on one lane where they are many: when any of them holds something."""
    slots = [name for name, events in by_resource.items() if events[0].activity == "hold"]
    if len(slots) <= _MOST_SLOTS:
        return by_resource
    held = [event for name in slots for event in by_resource[name]]
    others = {name: events for name, events in by_resource.items() if name not in slots}
    return {**others, f"{len(slots)} slots": list(_joined(held))}


def _joined(events: Iterable[TraceEvent]) -> Iterator[TraceEvent]:
    """Yield events that overlap as one, with the bytes of all."""
    whole: TraceEvent | None = None
    for event in sorted(events, key=lambda e: e.start_s):
        if whole is not None and event.start_s <= whole.end_s:
            moved = whole.traffic_bytes + event.traffic_bytes
            whole = replace(whole, end_s=max(whole.end_s, event.end_s), traffic_bytes=moved)
        else:
            if whole is not None:
                yield whole
            whole = event
    if whole is not None:
        yield whole


def _spans(events: Sequence[TraceEvent], start_s: float, end_s: float, least_s: float) -> Iterator[Span]:
    """Yield the events cut to the window; neighbours that are too short to see are one span."""
    run: list[TraceEvent] = []
    for event in sorted(events, key=lambda e: (e.start_s, e.end_s)):
        if run and not (event.end_s - run[0].start_s < least_s):
            yield _span(run, start_s, end_s)
            run = []
        run.append(event)
    if run:
        yield _span(run, start_s, end_s)


def _span(run: Sequence[TraceEvent], start_s: float, end_s: float) -> Span:
    """Return a run of events as one span of the activity that takes most of it."""
    lasted: dict[str, float] = {}
    for event in run:
        lasted[event.activity] = lasted.get(event.activity, 0.0) + event.end_s - event.start_s
    activity = max(lasted, key=lasted.__getitem__)
    names = run[0].name if len(run) == 1 else f"{len(run):,} from {run[0].name} to {run[-1].name}"
    says = f"{names}: {', '.join(f'{name} {format_seconds(s)}' for name, s in lasted.items())}"
    moved = sum(event.traffic_bytes for event in run)
    if moved:
        rate = f", {format_rate(moved / lasted[activity])}" if lasted[activity] and activity != "hold" else ""
        says += f", {moved:,} B ({format_bytes(moved)}){rate}"
    end = max(event.end_s for event in run)
    return Span(max(run[0].start_s, start_s) - start_s, min(end, end_s) - start_s, activity, says)
