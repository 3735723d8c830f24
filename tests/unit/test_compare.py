"""Predictions from the engine's own tiles: against formulas, an independent recurrence, and themselves."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.compare.compare import FRACTION, Row
from tierline.compare.forecast import Forecast, predict
from tierline.compare.passes import Workload
from tierline.models.stored import StoredTensor
from tierline.place.placement import Unit, place
from tierline.run.needs import Needs
from tierline.run.pace import Pace
from tierline.run.predict import Prediction, paced
from tierline.run.staging import READERS, SPARE_TILES
from tierline.run.tiles import tiles_of
from tierline.run.weights import WeightPlan
from tierline.sim.kernel import LinkSpec
from tierline.sim.pipeline import Fetch, Pass, Pipeline, run, run_events
from tierline.trace import TraceEvent, chrome_traces

ROW_BYTES = 1009


def plan_of(rows: int, capacity_bytes: int, row_read_bytes: int = 0) -> WeightPlan:
    """A matrix of `rows` rows in tiles of one row, as much of it pinned as the capacity leaves."""
    tensor = StoredTensor("w", "int8", (rows, ROW_BYTES), Path("x"), 0, rows * ROW_BYTES)
    tiles = tuple(tiles_of(tensor, ROW_BYTES))
    placement = place(
        [Unit(t.name, t.footprint_bytes) for t in tiles], capacity_bytes, slots=READERS + SPARE_TILES
    )
    assert placement is not None
    read = tuple(u.footprint_bytes for u in placement.streamed)
    return WeightPlan(placement, tiles, Needs(0, 0, 0), read, row_read_bytes)


def forecast_of(plan: WeightPlan, compute_s: float, rate: float | None, pace: Pace | None = None) -> Forecast:
    prediction = Prediction(compute_s, plan.read_bytes, rate, 7919, pace)
    return predict(plan, Workload(5, 1, 13, 2 * compute_s, compute_s), prediction)


def test_where_the_link_is_the_bound_the_simulation_reaches_the_plan() -> None:
    plan = plan_of(97, 43 * ROW_BYTES)
    found = forecast_of(plan, compute_s=0.1, rate=plan.read_bytes / 0.7)
    assert found.planned.tokens_per_s == pytest.approx(1 / 0.7)
    assert found.simulated.tokens_per_s == pytest.approx(1 / 0.7, rel=0.01)
    assert found.simulated.read_bytes_per_token == plan.read_bytes == found.planned.read_bytes_per_token
    assert found.planned.stall_fraction == pytest.approx(6 / 7)
    assert found.simulated.stall_fraction == pytest.approx(6 / 7, rel=0.02)
    assert found.simulated.link_busy_fraction == pytest.approx(1, abs=0.01)


def test_where_compute_is_the_bound_nobody_waits() -> None:
    plan = plan_of(97, 43 * ROW_BYTES)
    found = forecast_of(plan, compute_s=0.7, rate=plan.read_bytes / 0.1)
    assert found.simulated.tokens_per_s == pytest.approx(1 / 0.7)
    assert found.simulated.stall_fraction == pytest.approx(0, abs=1e-9)
    assert found.planned.link_busy_fraction == pytest.approx(1 / 7)
    assert found.simulated.link_busy_fraction == pytest.approx(1 / 7, rel=0.01)


def test_all_pinned_reads_nothing() -> None:
    found = forecast_of(plan_of(11, 11 * ROW_BYTES), compute_s=0.5, rate=None)
    assert found.simulated.read_bytes_per_token == 0
    assert found.simulated.tokens_per_s == pytest.approx(2)
    assert found.simulated.first_token_s == pytest.approx(1)


def test_rows_of_a_table_are_read_when_they_are_known_and_delay_the_token() -> None:
    rate = 1e5
    without, rows = plan_of(97, 43 * ROW_BYTES), plan_of(97, 43 * ROW_BYTES, row_read_bytes=4099)
    fast, slow = (forecast_of(plan, 0.5, rate).simulated for plan in (without, rows))
    assert fast.tokens_per_s
    assert slow.tokens_per_s
    assert 1 / slow.tokens_per_s >= 1 / fast.tokens_per_s
    assert slow.read_bytes_per_token == pytest.approx(rows.read_bytes)


def test_a_cache_on_disk_shares_the_link_with_the_weights() -> None:
    plan, cache_bytes = plan_of(97, 43 * ROW_BYTES), 40_009
    prediction = Prediction(0.01, plan.read_bytes + cache_bytes, (plan.read_bytes + cache_bytes) / 0.7, 7919)
    work = Workload(5, 1, 23, 0.02, 0.01, cache_bytes)
    found = predict(plan, work, prediction)
    assert found.simulated.read_bytes_per_token == plan.read_bytes + cache_bytes
    assert found.simulated.tokens_per_s == pytest.approx(1 / 0.7, rel=0.02)


def test_one_token_has_a_first_rate_and_no_steady_one() -> None:
    plan = plan_of(97, 43 * ROW_BYTES)
    found = predict(plan, Workload(5, 1, 0, 0.2, 0.1), Prediction(0.1, plan.read_bytes, 1e6, 7919))
    assert found.simulated.tokens_per_s is None
    assert found.simulated.first_token_s is not None


def test_a_pace_replaces_the_rate_and_a_disk_too_slow_for_it_is_refused() -> None:
    plan = plan_of(97, 43 * ROW_BYTES)
    pace = Pace("board", "usb", 1e5, 0.05)
    through = Prediction(0.01, plan.read_bytes, 8e4, 7919)
    with pytest.raises(Exception, match=r"--pace board:usb: this disk gives"):
        paced(Prediction(0.01, plan.read_bytes, 1e4, 7919), pace, plan.tile_read_bytes)
    # As many requests as there are readers, of 1009 B in flight every 50 ms and 10.09 ms.
    expected = READERS * ROW_BYTES / (0.05 + ROW_BYTES / 1e5)
    found = paced(through, pace, plan.tile_read_bytes)
    assert found.read_bytes_per_s == pytest.approx(expected)
    assert found.bound == "link:usb"
    simulated = predict(plan, Workload(5, 1, 29, 0.02, 0.01), found).simulated
    assert simulated.tokens_per_s == pytest.approx(found.tokens_per_s, rel=0.01)


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=17),
    room=st.integers(50, 200),
    rate=st.integers(1, 31),
    works=st.lists(st.integers(0, 13), min_size=17, max_size=17),
)
def test_a_ring_of_bytes_equals_an_independent_recurrence(
    sizes: list[int], room: int, rate: int, works: list[int]
) -> None:
    steps = Pass(
        [str(i) for i in range(len(sizes))],
        [Fetch(str(i), n, ("disk",)) for i, n in enumerate(sizes)],
        [Fraction(w) for w in works[: len(sizes)]],
    )
    pipeline = Pipeline({"disk": LinkSpec("disk", Fraction(rate), in_flight=2)}, staging_bytes=room)
    found = run(pipeline, [steps, steps], Fraction(0))
    ends: list[Fraction] = []
    link = Fraction(0)
    for i, size in enumerate(twice := sizes * 2):
        # It is asked for when all but the last few before it, which fit beside it, have been used.
        held, last = size, i
        while last and held + twice[last - 1] <= room:
            last -= 1
            held += twice[last]
        asked = ends[last - 1] if last else Fraction(0)
        link = max(link, asked) + Fraction(size, rate)
        ends.append(max([link, *ends[-1:]]) + works[i % len(sizes)])
    assert found.ends == ends


@given(tiles=st.integers(1, 13), places=st.integers(2, 5), work=st.fractions(0, 5))
def test_a_ring_of_equal_tiles_is_as_many_slots(tiles: int, places: int, work: Fraction) -> None:
    steps = Pass(["t"] * tiles, [Fetch("t", 7, ("disk",))] * tiles, [work] * tiles)
    links = {"disk": LinkSpec("disk", Fraction(3))}
    ring = run(Pipeline(links, staging_bytes=7 * places), [steps] * 3, Fraction(0))
    slots = run_events(Pipeline(links, prefetch_depth=places), [steps] * 3, Fraction(0))
    assert (ring.starts, ring.ends) == (slots.starts, slots.ends)


@pytest.mark.parametrize(
    ("unit", "planned", "measured", "error"),
    [
        ("tok/s", 11, 10, 0.1),
        ("B", 0, 0, 0.0),
        ("B", 5, 0, None),
        ("B", 5, None, None),
        (FRACTION, 0.3, 0.0, 0.3),
    ],
)
def test_errors_are_relative_but_those_of_shares(
    unit: str, planned: float, measured: float | None, error: float | None
) -> None:
    row = Row("x", unit, planned, planned, measured)
    assert (
        row.error_fraction
        == row.simulated_error_fraction
        == (error if error is None else pytest.approx(error))
    )


def test_two_processes_lie_over_one_another_in_one_trace() -> None:
    event = TraceEvent("disk", "read", "t", 0.5, 1.0, 17)
    events = chrome_traces({"simulated": [event], "measured": [event, event]})["traceEvents"]
    assert isinstance(events, list)
    assert [e["pid"] for e in events if e["ph"] == "X"] == [1, 2, 2]
    named = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert named == {1: "simulated", 2: "measured"}
