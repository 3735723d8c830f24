"""The pipeline against an independent recurrence, exactly, in fractions."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.sim.kernel import Kernel, Link, LinkSpec
from tierline.sim.pipeline import Fetch, Pass, Pipeline, Timeline, run, run_events

small = st.fractions(min_value=0, max_value=20, max_denominator=7)
rates = st.fractions(min_value=Fraction(1, 5), max_value=9, max_denominator=5)
specs = st.builds(
    LinkSpec, st.just("link"), rates, small, st.integers(0, 13), st.just("fifo"), st.integers(1, 3)
)


@st.composite
def traversals(draw: st.DrawFn, *, path: tuple[str, ...] = ("link",), all_fetch: bool = False) -> list[Pass]:
    count = draw(st.integers(1, 7))
    sizes = st.integers(0, 29) if all_fetch else st.none() | st.integers(0, 29)
    made = []
    for _ in range(draw(st.integers(1, 4))):
        fetched = draw(st.lists(sizes, min_size=count, max_size=count))
        work = draw(st.lists(small, min_size=count, max_size=count))
        fetches = [None if n is None else Fetch(f"unit {i}", n, path) for i, n in enumerate(fetched)]
        made.append(Pass([f"unit {i}" for i in range(count)], fetches, work))
    return made


def recurrence(pipeline: Pipeline, passes: list[Pass]) -> list[Fraction]:
    """Ends of all steps by max-plus algebra: each is the maximum of what has to have happened before."""
    done: list[Fraction] = []  # step -> end
    using: list[int] = []  # the steps that held a slot
    delivered: dict[str, list[Fraction]] = {name: [] for name in pipeline.links}
    depth = pipeline.prefetch_depth
    for traversal in passes:
        opened = max(done, default=Fraction(0)) if not pipeline.wrap else Fraction(0)
        for fetch, work in zip(traversal.fetches, traversal.work, strict=True):
            here = max(done, default=Fraction(0))
            ready = opened
            holds = fetch is not None or pipeline.by_step or depth == 1
            if holds:
                if len(using) >= depth:
                    ready = max(ready, done[using[-depth]])
                using.append(len(done))
            if fetch is not None:
                for name in fetch.path:
                    spec, ends = pipeline.links[name], delivered[name]
                    if len(ends) >= spec.in_flight:
                        ready = max(ready, ends[-spec.in_flight])
                    start = max([ready + spec.latency, *ends[-1:]])
                    ready = start + Fraction(max(fetch.traffic_bytes, spec.minimum_bytes)) / spec.rate
                    ends.append(ready)
            done.append(max(here, ready if fetch is not None else here) + work)
    return done


@given(traversals(), specs, st.integers(1, 5), st.booleans(), st.booleans())
def test_both_engines_equal_the_recurrence(
    passes: list[Pass], spec: LinkSpec, depth: int, by_step: bool, wrap: bool
) -> None:
    pipeline = Pipeline({"link": spec}, depth, by_step, wrap)
    expected = recurrence(pipeline, passes)
    for timeline in (run(pipeline, passes, Fraction(0)), run_events(pipeline, passes, Fraction(0))):
        assert timeline.ends == expected
        assert all(isinstance(end, Fraction) for end in timeline.ends)


@given(traversals(path=("disk", "link")), specs, rates, st.integers(1, 5), st.booleans())
def test_two_links_in_a_row_equal_the_recurrence(
    passes: list[Pass], spec: LinkSpec, rate: Fraction, depth: int, wrap: bool
) -> None:
    disk = replace(spec, name="disk", rate=rate)
    pipeline = Pipeline({"disk": disk, "link": spec}, depth, wrap=wrap)
    assert run(pipeline, passes, Fraction(0)).ends == recurrence(pipeline, passes)


@st.composite
def mixed(draw: st.DrawFn) -> list[Pass]:
    """Passes in which fetches queue for slots, ride along or are needed at once, in several pieces."""
    how = st.tuples(st.booleans(), st.booleans(), st.integers(1, 3))
    made = []
    for traversal in draw(traversals()):
        fetches = [
            f and replace(f, on_demand=needed, slot=slot, requests=pieces)
            for f in traversal.fetches
            for needed, slot, pieces in [draw(how)]
        ]
        made.append(replace(traversal, fetches=fetches))
    return made


@given(mixed(), specs, st.integers(1, 4), st.booleans(), st.booleans())
def test_both_engines_agree_on_faults_rows_and_what_rides_along(
    passes: list[Pass], spec: LinkSpec, depth: int, by_step: bool, wrap: bool
) -> None:
    pipeline = Pipeline({"link": replace(spec, in_flight=1)}, depth, by_step, wrap)
    fast, events = (engine(pipeline, passes, Fraction(0)) for engine in (run, run_events))
    assert (fast.starts, fast.ends) == (events.starts, events.ends)
    moved = [sorted((t.step, t.start, t.end) for t in timeline.transfers) for timeline in (fast, events)]
    assert moved[0] == moved[1]


def test_what_is_needed_at_once_waits_for_what_the_link_has_begun() -> None:
    row = Fetch("row", 1, ("link",), on_demand=True)
    layers = [Fetch("a", 10, ("link",)), Fetch("norm", 1, ("link",), slot=False), Fetch("b", 10, ("link",))]
    one = Pass(["row", "a", "norm", "b"], [row, *layers], [Fraction(2)] * 4)
    timeline = run(Pipeline({"link": LinkSpec("link", Fraction(1))}, 2), [one, one], Fraction(0))
    # row 0-1, a 1-11, norm 11-12, b 12-22; the next a begins at 22, when its slot has long been free, so the
    # next row, needed at 24 when b has been used, waits for it until 32 and goes before norm and b
    assert timeline.ends == [3, 13, 15, 24, 35, 37, 39, 46]


@given(traversals(), specs, st.integers(1, 5), st.booleans())
def test_time_is_between_the_longest_and_the_sum(
    passes: list[Pass], spec: LinkSpec, depth: int, wrap: bool
) -> None:
    timeline = run(Pipeline({"link": spec}, depth, wrap=wrap), passes, Fraction(0))
    work = sum((w for p in passes for w in p.work), Fraction(0))
    sizes = [f.traffic_bytes for p in passes for f in p.fetches if f is not None]
    moving = sum((max(n, spec.minimum_bytes) / spec.rate for n in sizes), Fraction(0))
    assert max(work, moving) <= timeline.ends[-1] <= work + moving + len(sizes) * spec.latency


@given(traversals(all_fetch=True), specs, st.booleans())
def test_fetching_everything_on_demand_takes_the_sum(passes: list[Pass], spec: LinkSpec, wrap: bool) -> None:
    timeline = run(Pipeline({"link": spec}, 1, wrap=wrap), passes, Fraction(0))
    fetches = [f for p in passes for f in p.fetches if f is not None]
    moving = sum(
        (spec.latency + max(f.traffic_bytes, spec.minimum_bytes) / spec.rate for f in fetches), Fraction(0)
    )
    assert timeline.ends[-1] == moving + sum((w for p in passes for w in p.work), Fraction(0))


@given(traversals(), specs, rates, st.integers(1, 5), st.booleans(), st.booleans())
def test_more_bandwidth_or_depth_is_never_slower(
    passes: list[Pass], spec: LinkSpec, more: Fraction, depth: int, by_step: bool, wrap: bool
) -> None:
    def ends(rate: Fraction, slots: int) -> list[Fraction]:
        links = {"link": replace(spec, rate=rate)}
        return run(Pipeline(links, slots, by_step, wrap), passes, Fraction(0)).ends

    base = ends(spec.rate, depth)
    assert all(a >= b for a, b in zip(base, ends(spec.rate + more, depth), strict=True))
    assert all(a >= b for a, b in zip(base, ends(spec.rate, depth + 1), strict=True))


@given(traversals(), specs, st.integers(1, 5), st.sampled_from(["fifo", "fair"]))
def test_the_same_input_makes_the_same_trace_and_conserves_bytes(
    passes: list[Pass], spec: LinkSpec, depth: int, discipline: str
) -> None:
    spec = replace(spec, discipline=discipline)  # type: ignore[arg-type]
    first, second = (run_events(Pipeline({"link": spec}, depth), passes, Fraction(0)) for _ in range(2))
    assert (first.starts, first.ends, first.transfers) == (second.starts, second.ends, second.transfers)
    asked = [f.traffic_bytes for p in passes for f in p.fetches if f is not None]
    assert sum(t.fetch.traffic_bytes for t in first.transfers) == sum(asked)
    assert len(first.transfers) == len(asked)


@given(traversals(), specs, st.integers(1, 4), st.booleans())
def test_no_more_is_staged_than_there_are_slots(
    passes: list[Pass], spec: LinkSpec, depth: int, wrap: bool
) -> None:
    timeline = run(Pipeline({"link": spec}, depth, wrap=wrap), passes, Fraction(0))
    held = [(t.start, timeline.ends[t.step]) for t in timeline.transfers]
    for moment, _ in held:
        assert sum(start <= moment < end for start, end in held) <= depth


@given(st.lists(st.tuples(small, st.integers(1, 29)), min_size=1, max_size=6), rates)
def test_a_fair_link_shares_its_rate_equally(asked: list[tuple[Fraction, int]], rate: Fraction) -> None:
    kernel = Kernel(Fraction(0))
    link = Link(kernel, LinkSpec("link", rate, discipline="fair", in_flight=99))
    ends: dict[int, Fraction] = {}
    for i, (moment, count) in enumerate(asked):
        kernel.at(
            moment,
            lambda i=i, n=count: link.request(n, lambda _, end, i=i: ends.__setitem__(i, end)),  # type: ignore[misc]
        )
    kernel.run()
    assert [ends[i] for i in range(len(asked))] == fluid(asked, rate)


def fluid(asked: list[tuple[Fraction, int]], rate: Fraction) -> list[Fraction]:
    """Processor sharing as a fluid: between events everybody present gets rate / n."""
    left = {i: Fraction(n) for i, (_, n) in enumerate(asked)}
    ends: dict[int, Fraction] = {}
    now = Fraction(0)
    while left:
        present = [i for i in left if asked[i][0] <= now]
        coming = [asked[i][0] for i in left if asked[i][0] > now]
        steps = [c - now for c in coming] + [left[i] * len(present) / rate for i in present]
        step = min(steps)
        for i in present:
            left[i] -= step * rate / len(present)
        now += step
        for i in [i for i in present if left[i] == 0]:
            ends[i] = now
            del left[i]
    return [ends[i] for i in range(len(asked))]


def period(order: list[bool], transfer: int, depth: int) -> Fraction:
    units = ["unit"] * len(order)
    fetches = [Fetch("unit", transfer, ("link",)) if streamed else None for streamed in order]
    link = LinkSpec("link", Fraction(1))
    ends = run_events(
        Pipeline({"link": link}, depth), [Pass(units, fetches, [Fraction(1)] * len(order))] * 3
    ).ends
    return Fraction(ends[-1] - ends[-1 - len(order)])


@pytest.mark.parametrize(
    ("transfer", "prefix", "spread", "on_demand"), [(1, 80, 80, 120), (2, 118, 80, 160), (4, 194, 160, 240)]
)
def test_where_to_pin_80_layers_of_which_40_are_streamed(
    transfer: int, prefix: int, spread: int, on_demand: int
) -> None:
    assert period([False] * 40 + [True] * 40, transfer, 2) == prefix
    assert period([False, True] * 40, transfer, 2) == spread
    assert period([False, True] * 40, transfer, 1) == on_demand


def test_a_write_keeps_the_link_busy_and_nobody_waiting() -> None:
    link = LinkSpec("link", Fraction(2))
    written = Fetch("kv", 6, ("link",))
    one = Pass(["a", "b"], [None, Fetch("b", 4, ("link",))], [Fraction(1), Fraction(1)], [written, None])
    timeline = run(Pipeline({"link": link}, 1), [one, one], Fraction(0))
    # a ends at 1, its write takes the link from 1 to 4; b's fetch on demand follows it from 4 to 6
    assert timeline.ends == [1, 7, 8, 14]


def test_a_page_fault_starts_when_it_is_needed_and_pays_for_every_piece() -> None:
    link = LinkSpec("link", Fraction(2), Fraction(3))
    fault = Fetch("a", 8, ("link",), on_demand=True, requests=5)
    timeline: Timeline = run(
        Pipeline({"link": link}), [Pass(["x", "a"], [None, fault], [Fraction(7)] * 2)], Fraction(0)
    )
    assert timeline.ends == [7, 7 + 5 * 3 + 4 + 7]
