"""The timeline of one token: what links, staging slots and compute do while it is made."""

from collections.abc import Iterable, Iterator, Sequence

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
_ORDER = {"compute": 0, "wait": 0, "read": 1, "load": 1, "write": 1, "hold": 2}


def token_timeline(result: SimResult, measured: Sequence[TraceEvent] = ()) -> Lanes:
    """Return the last pass of the main phase, simulated; below it `measured`, the events of one token.

    Spans too short to see are drawn with their neighbours of the same activity, and say how many they are.
    """
    window = _last_pass(result)
    groups = [_group("simulated", result.events, *window)]
    longest = window[1] - window[0]
    if measured:
        start, end = min(e.start_s for e in measured), max(e.end_s for e in measured)
        groups.append(_group("measured", measured, start, end))
        longest = max(longest, end - start)
    title = f"{result.plan.model.name} on {result.plan.machine.name}: one pass of {result.main.name}"
    return lanes(title, groups, longest)


def lanes(title: str, groups: Sequence[LaneGroup], longest_s: float) -> Lanes:
    """Return groups of lanes as a figure of `longest_s` seconds."""
    used = {s.activity for group in groups for lane in group.lanes for s in lane.spans}
    paints = {name: paint for name, paint in PAINTS.items() if name in used}
    return Lanes(title, seconds_axis("time", longest_s), tuple(groups), paints)


def _last_pass(result: SimResult) -> tuple[float, float]:
    main = result.main
    end = main.start_s + sum(main.pass_times_s)
    return end - main.pass_times_s[-1], end


def _group(name: str, events: Iterable[TraceEvent], start_s: float, end_s: float) -> LaneGroup:
    """Return the lanes of the events between two times: compute, then links, then slots."""
    by_resource: dict[str, list[TraceEvent]] = {}
    for event in events:
        if event.end_s > start_s and event.start_s < end_s:
            by_resource.setdefault(event.resource, []).append(event)
    least_s = (end_s - start_s) / _MOST_SPANS
    ordered = sorted(by_resource.items(), key=lambda item: (_ORDER[item[1][0].activity], item[0]))
    return LaneGroup(
        name, tuple(Lane(n, tuple(_spans(found, start_s, end_s, least_s))) for n, found in ordered)
    )


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
