"""What a timeline shows: time per pass, how busy every link was, who waited for whom."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tierline.machines.machine import Machine
from tierline.sim.pipeline import Timeline, Transfer
from tierline.sim.schedule import DECOMPRESS, PassPlan, Rates, Schedule


@dataclass(frozen=True, slots=True)
class LinkMeasure:
    """What crossed a link. `achieved_bytes_per_s` is while it was busy, None where nothing crossed it.

    `sustained_bytes_per_s` is the rate it is simulated with (the peak where no other is known).
    """

    name: str
    traffic_bytes: int
    busy_s: float
    busy_fraction: float
    achieved_bytes_per_s: float | None
    sustained_bytes_per_s: float | None


@dataclass(frozen=True)
class PhaseMeasure:
    """One phase: it begins at `start_s`, and pass i ends `pass_times_s[i]` after the pass before.

    Busy fractions, links and `stall_s` (how long compute waited, by cause) are of the whole phase. What is
    steady leaves out the first pass, which loads, where there are more: `tokens_per_s_steady`, `bound`,
    `stall_s_per_pass` and `overlap_fraction`, the part of the time in which links fetch that compute works
    too (None where nothing is fetched).
    """

    name: str
    start_s: float
    time_s: float
    tokens: float
    pass_times_s: tuple[float, ...]
    bound: str
    compute_busy_fraction: float
    links: tuple[LinkMeasure, ...]
    overlap_fraction: float | None
    stall_s: dict[str, float]
    stall_s_per_pass: float
    tokens_per_s_steady: float | None

    def percentile_s(self, fraction: float) -> float:
        """Return the time within which `fraction` of the passes end (nearest rank)."""
        times = sorted(self.pass_times_s)
        return times[max(0, -(-int(fraction * 1000) * len(times) // 1000) - 1)]


@dataclass(frozen=True, slots=True)
class _Span:
    """The passes and steps of a phase, and the time it takes."""

    passes: Sequence[PassPlan]
    first: int
    last: int
    start: float
    end: float


def measure(
    machine: Machine, schedule: Schedule, timeline: Timeline, rates: Rates
) -> tuple[tuple[PhaseMeasure, ...], tuple[LinkMeasure, ...]]:
    """Return what each phase took, and every link over all of them (the fast tier's port first)."""
    spans = list(_spans(schedule.passes, timeline))
    phases = tuple(_phase(span, timeline, rates, machine) for span in spans)
    total = timeline.ends[-1]
    whole = _Span(schedule.passes, 0, len(timeline.ends), 0.0, total)
    return phases, tuple(_links(whole, timeline.transfers, rates, machine))


def _spans(passes: Sequence[PassPlan], timeline: Timeline) -> Iterator[_Span]:
    first = position = 0
    start = 0.0
    group: list[PassPlan] = []
    for i, planned in enumerate(passes):
        group.append(planned)
        position += len(planned.steps.work)
        if i + 1 == len(passes) or passes[i + 1].demand.phase != planned.demand.phase:
            end = timeline.ends[position - 1]
            yield _Span(tuple(group), first, position, start, end)
            first, start, group = position, end, []


def _phase(span: _Span, timeline: Timeline, rates: Rates, machine: Machine) -> PhaseMeasure:
    ends = []
    position = span.first
    for planned in span.passes:
        position += len(planned.steps.work)
        ends.append(timeline.ends[position - 1])
    times = tuple(b - a for a, b in zip([span.start, *ends[:-1]], ends, strict=True))
    moved = [t for t in timeline.transfers if span.first <= t.step < span.last]
    steady = span
    if len(ends) > 1:
        after = span.first + len(span.passes[0].steps.work)
        steady = _Span(span.passes[1:], after, span.last, ends[0], span.end)
    steadily = [t for t in moved if t.step >= steady.first]
    busy = {"compute": sum(p.compute_s for p in steady.passes)}
    busy |= {f"link:{x.name}": x.busy_s for x in _links(steady, steadily, rates, machine)}
    duration, steady_s = span.end - span.start, steady.end - steady.start
    made = sum(p.demand.tokens for p in steady.passes)
    compute_s = sum(p.compute_s for p in span.passes)
    return PhaseMeasure(
        name=span.passes[0].demand.phase,
        start_s=span.start,
        time_s=duration,
        tokens=sum(p.demand.tokens for p in span.passes),
        pass_times_s=times,
        bound=max(busy, key=busy.__getitem__),
        compute_busy_fraction=compute_s / duration if duration else 0.0,
        links=tuple(_links(span, moved, rates, machine)),
        overlap_fraction=_overlap(steady, timeline, steadily),
        stall_s=_stalls(span, timeline),
        stall_s_per_pass=sum(_stalls(steady, timeline).values()) / len(steady.passes),
        tokens_per_s_steady=made / steady_s if made and steady_s else None,
    )


def _links(
    span: _Span, transfers: Iterable[Transfer], rates: Rates, machine: Machine
) -> Iterator[LinkMeasure]:
    port = machine.fast.name
    duration = span.end - span.start
    port_bytes = sum(p.port_bytes for p in span.passes)
    yield _link(port, port_bytes, port_bytes / rates.port_bytes_per_s, duration, rates.port_bytes_per_s)
    intervals: dict[str, list[tuple[float, float]]] = {}
    traffic: dict[str, int] = {}
    for t in transfers:
        intervals.setdefault(t.link, []).append((t.start, t.end))
        traffic[t.link] = traffic.get(t.link, 0) + t.fetch.traffic_bytes
    for name, found in intervals.items():
        rate = None if name == DECOMPRESS else machine.link(name).rate.value
        yield _link(name, traffic[name], sum(b - a for a, b in merged(found)), duration, rate)


def _link(name: str, traffic_bytes: int, busy_s: float, duration: float, rate: float | None) -> LinkMeasure:
    achieved = traffic_bytes / busy_s if busy_s else None
    return LinkMeasure(name, traffic_bytes, busy_s, busy_s / duration if duration else 0.0, achieved, rate)


def _stalls(span: _Span, timeline: Timeline) -> dict[str, float]:
    fetches = [f for p in span.passes for f in p.steps.fetches]
    stalls: dict[str, float] = {}
    before = span.start
    for step, fetch in enumerate(fetches, span.first):
        waited = timeline.starts[step] - before
        if waited > 0 and fetch is not None:
            cause = f"{fetch.cause} over {' and '.join(fetch.path)}"
            stalls[cause] = stalls.get(cause, 0.0) + waited
        before = timeline.ends[step]
    return stalls


def _overlap(span: _Span, timeline: Timeline, moved: Sequence[Transfer]) -> float | None:
    """Return the part of the fetching time in which compute works too."""
    fetching = merged((t.start, t.end) for t in moved if not t.written)
    fetching_s = sum(b - a for a, b in fetching)
    if not fetching_s:
        return None
    working = merged(
        zip(timeline.starts[span.first : span.last], timeline.ends[span.first : span.last], strict=True)
    )
    both = 0.0
    i = j = 0
    while i < len(fetching) and j < len(working):
        both += max(0.0, min(fetching[i][1], working[j][1]) - max(fetching[i][0], working[j][0]))
        if fetching[i][1] < working[j][1]:
            i += 1
        else:
            j += 1
    return both / fetching_s


def merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of intervals as intervals that do not touch, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
