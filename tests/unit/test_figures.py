"""Figures hold the plan's own numbers; renderers draw whatever is in them, and nothing that a name says."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.legend import Legend

import tierline
from tierline.errors import InputError
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.report.figures.draw import STYLE, draw
from tierline.report.figures.draw_chart import draw_chart
from tierline.report.figures.figure import Axis, Bars, Chart, Figure, Lanes, Rule, Series
from tierline.report.figures.footprint import footprint_by_context, footprint_by_format
from tierline.report.figures.interactive import plotly_figure
from tierline.report.figures.memory import memory_map
from tierline.report.figures.palette import COLOURS
from tierline.report.figures.pareto import Point, front, pareto_chart, sweep_chart
from tierline.report.figures.residency import residency_chart
from tierline.report.figures.roofline import roofline_chart
from tierline.report.figures.speed import speed_by_link, speed_by_memory
from tierline.report.figures.timeline import last_pass, run_timeline, token_timeline
from tierline.report.figures.traffic import traffic_per_pass
from tierline.report.roofline import build_roofline
from tierline.report.schema import plan_json
from tierline.scenario import scenario
from tierline.search.sweep import Question, tables
from tierline.sim.break_even import break_even
from tierline.trace import TraceEvent

HOSTILE = "<b onmouseover=alert(1)>$x^{\n"
THEME = {"ink": "#111111", "faint": "#777777", "grid": "#dddddd", "page": "#ffffff"}


def resident() -> Plan:
    return tierline.plan("smolvlm2-256m", "nexys-video", weights="mxfp8:block=8", context=1009)


def streamed() -> Plan:
    return tierline.plan("llama-3.1-8b", "nexys-video", weights="int4:group=64", context=1009)


def impossible() -> Plan:
    tiny = tierline.machine("nexys-video", {"ddr3.capacity": "20MiB"})
    return tierline.plan("smolvlm2-256m", tiny)


def denoising() -> Plan:
    return tierline.plan("smolvla", "alveo-u280")


PLANS: tuple[Callable[[], Plan], ...] = (resident, streamed, impossible, denoising)


@pytest.mark.parametrize("of", PLANS)
def test_the_memory_map_has_the_bytes_of_the_plan(of: Callable[[], Plan]) -> None:
    plan = of()
    document = plan_json(plan)
    figure = memory_map(plan)
    used = {t["name"]: t["used_bytes"] for t in document["tiers"] if t["used_bytes"]}
    assert {bar.name: bar.total for bar in figure.bars} == used
    limits = {t["name"]: t["allowed_bytes"] for t in document["tiers"]}
    assert all(bar.limit == limits[bar.name] for bar in figure.bars)
    parts: dict[str, float] = {}
    for segment in (s for bar in figure.bars for s in bar.segments):
        name = segment.name.removesuffix(", streamed")
        parts[name] = parts.get(name, 0) + segment.value
        assert (segment.paint.texture == "/") == segment.name.endswith(", streamed")
        assert f"{int(segment.value):,} B" in segment.hover or name == "staging"
    components = document["footprint"]["by_component_bytes"]
    assert {n: c for n, c in parts.items() if n in components} == {n: c for n, c in components.items() if c}
    assert parts["KV cache"] == document["footprint"]["kv_cache_bytes"]
    assert parts.get("staging", 0) == document["residency"]["staging_bytes"]
    axis = figure.axis
    assert axis.high is not None
    assert axis.high >= max(figure.bars[0].limit or 0, *(bar.total for bar in figure.bars))


@pytest.mark.parametrize("of", [resident, streamed])
def test_traffic_is_what_the_plan_moves_in_a_pass(of: Callable[[], Plan]) -> None:
    plan = of()
    bars = {bar.name: bar.total for bar in traffic_per_pass(plan).bars}
    for phase in plan_json(plan)["phases"]:
        for link in phase["links"]:
            if link["traffic_bytes"]:
                assert bars[f"{phase['name']} {link['name']}"] * phase["passes"] == link["traffic_bytes"]


@pytest.mark.parametrize("split", ["tp=2", "pp=2,micro=2"])
def test_several_devices_have_a_bar_each(split: str) -> None:
    asked = scenario("llama-3.1-70b", "rtx-3090-x2", weights="int8", parallel=split, batch=2)
    plan = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    used = {t.name: t.used_bytes for t in plan.tiers if t.used_bytes}
    assert len(used) == 3
    assert {bar.name: bar.total for bar in memory_map(plan).bars} == used
    for bar in traffic_per_pass(plan).bars:
        phase, link = bar.name.split()
        planned = plan.phase(phase)
        assert planned is not None
        assert bar.total == next(x.traffic_bytes for x in planned.links if x.name == link) // planned.passes
    with pytest.raises(InputError, match="one device"):
        speed_by_memory(plan)


def test_footprints_by_format_are_those_of_plans_in_these_formats() -> None:
    figure = footprint_by_format(resident(), ("int8", "mxfp4"))
    assert [bar.name for bar in figure.bars] == ["mxfp8:block=8", "int8", "mxfp4"]
    for bar in figure.bars:
        other = tierline.plan("smolvlm2-256m", "nexys-video", weights=bar.name, context=1009)
        assert bar.total == other.footprint.total_bytes
    with pytest.raises(InputError):
        footprint_by_format(resident(), ("int99",))


def test_the_last_token_that_fits_fits_and_the_next_does_not() -> None:
    chart = footprint_by_context(resident(), batches=(1, 3))
    hits = [s for s in chart.series if s.kind == "points"]
    assert len(hits) == 2
    for batch, hit in zip((1, 3), hits, strict=True):
        context = int(hit.xs[0])

        def planned(tokens: int, batch: int = batch) -> Plan:
            return tierline.plan(
                "smolvlm2-256m", "nexys-video", weights="mxfp8:block=8", context=tokens, batch=batch
            )

        assert planned(context).fits
        assert planned(context).footprint.total_bytes == hit.ys[0]
        assert not planned(context + 1).fits
        assert hit.tags == (f"{context:,}",)


def test_nothing_is_marked_where_no_context_fits() -> None:
    assert [s.kind for s in footprint_by_context(streamed()).series] == ["line"] * 4


def test_speed_against_memory_is_that_of_plans_with_that_memory() -> None:
    plan = resident()
    line = speed_by_memory(plan).series[0]
    for size, rate in list(zip(line.xs, line.ys, strict=True))[::7]:
        machine = tierline.machine("nexys-video", {"ddr3.capacity": f"{int(size)}B"})
        other = tierline.plan("smolvlm2-256m", machine, weights="mxfp8:block=8", context=1009)
        assert other.main_phase is not None
        assert other.main_phase.tokens_per_s == rate
    # More memory is not slower where all of it is free, but for how tiles happen to fill it.
    assert all(after > 0.99 * before for before, after in pairwise(line.ys))
    cliff = dict(zip(line.xs, line.ys, strict=True))
    assert {plan.footprint.total_bytes, plan.footprint.total_bytes - 1} <= cliff.keys()


def test_speed_against_the_link_reaches_resident_at_the_break_even_point() -> None:
    result = tierline.simulate(streamed(), phases=("decode",), passes=5)
    chart = speed_by_link(result)
    line, own, even = chart.series
    points = break_even(result)
    assert own.xs == (tierline.machine("nexys-video").link("usb2").rate.value,)
    assert own.ys[0] == pytest.approx(result.tokens_per_s_steady, rel=1e-3)
    assert even.xs == (points.resident_rate_bytes_per_s,)
    resident_speed = chart.rules[0].at
    assert 0.99 <= even.ys[0] / resident_speed <= 1
    assert list(line.ys) == sorted(line.ys)


def test_a_timeline_is_the_last_pass_with_all_its_bytes() -> None:
    result = tierline.simulate(streamed(), phases=("decode",), passes=4)
    figure = token_timeline(result)
    (group,) = figure.groups
    assert [lane.name for lane in group.lanes] == ["compute", "link:usb2", "slot 0", "slot 1"]
    length = result.main.pass_times_s[-1]
    for lane in group.lanes:
        assert all(0 <= s.start_s <= s.end_s <= length * (1 + 1e-9) for s in lane.spans)
    compute = group.lanes[0].spans
    assert sum(s.end_s - s.start_s for s in compute) == pytest.approx(length)
    assert figure.paints.keys() == {"compute", "wait", "read", "hold"}


def test_spans_too_short_to_see_are_drawn_together() -> None:
    activities: tuple[Any, ...] = ("compute", "wait")
    events = [
        TraceEvent("compute", activities[i % 2], f"step {i % 7001}", i * 1e-5, (i + 1) * 1e-5, 3)
        for i in range(7001)
    ]
    (group,) = run_timeline("many", {"simulated": events}).groups
    spans = group.lanes[0].spans
    assert 300 < len(spans) <= 1201
    assert spans[0].start_s == 0
    assert spans[-1].end_s == pytest.approx(events[-1].end_s)


def test_the_last_pass_begins_where_the_one_before_ends() -> None:
    turns = [("a", 0.0, 1.0), ("b", 1.0, 3.0), ("a", 5.0, 7.0), ("b", 7.0, 18.0)]
    events = [TraceEvent("compute", "compute", *turn) for turn in turns]
    assert last_pass(events) == (3.0, 18.0)
    assert last_pass(events[:1]) == (0.0, 1.0)
    with pytest.raises(InputError):
        last_pass([TraceEvent("disk", "read", "a", 0.0, 1.0)])


def test_many_slots_share_a_lane() -> None:
    compute = TraceEvent("compute", "compute", "a", 0.0, 11.0)
    holds = [TraceEvent(f"slot {i}", "hold", "a", float(i), i + 2.0, 5) for i in range(7)]
    (group,) = run_timeline("slots", {"simulated": [compute, *holds]}).groups
    assert [lane.name for lane in group.lanes] == ["compute", "7 slots"]
    (span,) = group.lanes[1].spans
    assert (span.start_s, span.end_s) == (0.0, 8.0)
    assert "35 B" in span.hover


def test_roofline_points_are_the_operations() -> None:
    plan = resident()
    roofline = build_roofline(plan.model, plan.machine, plan.workload, [plan.costing], ("decode",))
    chart = roofline_chart(roofline)
    drawn = {(x, y) for s in chart.series if s.kind == "points" for x, y in zip(s.xs, s.ys, strict=True)}
    reached = {(p.reach[0].operational_intensity, p.reach[0].flop_per_s) for p in roofline.operations}
    assert drawn <= reached
    assert len(drawn) > 1
    slopes = [s for s in chart.series if s.kind == "line" and s.in_legend]
    assert {s.name.partition(",")[0] for s in slopes} == {"ddr3", *(x.name for x in plan.machine.links)}
    for slope in slopes:
        rate = slope.ys[0] / slope.xs[0]
        assert f"{rate / 1e9:,.4g} GB/s" in slope.name


def test_a_mix_of_formats_has_each_number_once() -> None:
    """Half of q4_k_m's down projections are wider: two numbers, each at its own place."""
    plan = tierline.plan("llama-3.1-70b", "rtx-4090", weights="q4_k_m")
    roofline = build_roofline(plan.model, plan.machine, plan.workload, [plan.costing], ("prefill",))
    tags = [tag for s in roofline_chart(roofline).series if s.kind == "points" for tag in s.tags]
    assert sorted(tags) == sorted(set(tags))
    assert len(tags) > 3


@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), min_size=1, max_size=17))
def test_the_front_is_what_no_point_beats(pairs: list[tuple[int, int]]) -> None:
    points = [Point(f"{i}", float(x), float(y)) for i, (x, y) in enumerate(pairs)]

    def beaten(p: Point) -> bool:
        return any(q.x <= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in points)

    expected = {(p.x, p.y) for p in points if not beaten(p)}
    found = front(points)
    assert {(p.x, p.y) for p in found} == expected
    assert len(found) == len(expected)
    mirrored = front([replace(p, x=-p.x, y=-p.y) for p in points], less_x=False, more_y=False)
    assert {(-p.x, -p.y) for p in mirrored} == expected


def test_a_sweep_is_drawn_as_speed_over_what_is_held() -> None:
    plans = {
        (weights, batch): tierline.plan("smolvlm2-256m", "nexys-video", weights=weights, batch=batch)
        for weights in ("mxfp8", "mxfp4")
        for batch in (1, 3)
    }
    asked = {"model": ["smolvlm2-256m"], "on": ["nexys-video"], "weights": ["mxfp8,mxfp4"], "batch": ["1,3"]}
    rows = [
        dict(zip(table, cells, strict=True))
        for table in tables(Question.of(asked))
        for cells in zip(*(column.cells() for column in table.values()), strict=True)
    ]
    chart = sweep_chart(rows, ["weights", "batch"])
    for weights in ("mxfp8", "mxfp4"):
        (drawn,) = [s for s in chart.series if s.name == f"weights {weights}"]
        wanted = [plans[weights, batch] for batch in (1, 3)]
        held = tuple(plan.footprint.total_bytes - plan.residency.streamed_bytes for plan in wanted)
        assert drawn.xs == held
        speeds = [plan.main_phase.tokens_per_s for plan in wanted if plan.main_phase is not None]
        assert drawn.ys == pytest.approx(speeds)
    with pytest.raises(InputError, match="no row has tokens"):
        sweep_chart([{**row, "tokens_per_s": None} for row in rows], [])


def test_what_the_fast_tier_allows_is_within_the_axis() -> None:
    chart = footprint_by_context(tierline.plan("llama-3.1-70b", "rtx-4090", weights="q4_k_m"))
    (allowed,) = [rule.at for rule in chart.rules if "allows" in rule.label]
    assert chart.y.low is not None
    assert chart.y.low < allowed < min(chart.series[0].ys)


def test_a_long_key_and_the_links_below_it_do_not_overlap() -> None:
    plan = tierline.plan("llama-3.1-70b", "rtx-4090", weights="q4_k_m")
    phases = ("prefill", "decode")
    roofline = build_roofline(plan.model, plan.machine, plan.workload, [plan.costing], phases)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # keys are checked by matplotlib
        canvas = draw_chart(roofline_chart(roofline))
        canvas.draw_without_rendering()
    (axes,) = canvas.axes
    key, links = [a.get_window_extent() for a in axes.get_children() if isinstance(a, Legend)]
    assert not key.overlaps(links)


def test_no_two_colours_are_alike() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == 6


@pytest.fixture(scope="module", name="hostile")
def hostile_figures() -> list[Figure]:
    plan = streamed()
    model = replace(plan.model, name=HOSTILE)
    named = replace(plan, model=model, machine=replace(plan.machine, title=HOSTILE))
    result = tierline.simulate(named, phases=("decode",), passes=3)
    roofline = build_roofline(model, named.machine, plan.workload, [plan.costing], ("decode",))
    cloud = [Point(HOSTILE, 3.0, 5.0, HOSTILE, HOSTILE), Point("b", 5.0, 7.0)]
    charts: list[Figure] = [
        memory_map(named),
        traffic_per_pass(named),
        token_timeline(result, result.events),
        residency_chart(result),
        roofline_chart(roofline),
        pareto_chart(HOSTILE, cloud, Axis(HOSTILE, HOSTILE), Axis("speed", "tok/s")),
    ]
    rules = (Rule("x", 3.0, HOSTILE), Rule("y", 3.0, HOSTILE, colour="faint"))
    points = Series(HOSTILE, "points", (3.0,), (5.0,), "ink", tags=(HOSTILE,), hovers=(HOSTILE,))
    return [*charts, Chart(HOSTILE, Axis("x"), Axis("y"), (points,), rules)]


@pytest.mark.parametrize("index", range(7))
def test_plotly_accepts_every_figure_and_no_name_is_html(index: int, hostile: list[Figure]) -> None:
    plotly = pytest.importorskip("plotly.graph_objects")
    figure = hostile[index]
    text = json.dumps(plotly_figure(figure))
    assert "<b" not in text
    assert "&lt;b onmouseover" in text
    document = json.loads(text)
    plotly.Figure(themed(document))  # refuses what plotly does not know
    drawn = [t for t in document["data"] if t["type"] == "bar"]
    if isinstance(figure, Bars):
        total = sum(value for trace in drawn for value in trace["x"])
        assert total * figure.axis.scale == pytest.approx(sum(bar.total for bar in figure.bars))
    if isinstance(figure, Lanes):
        spans = sum(len(lane.spans) for group in figure.groups for lane in group.lanes)
        assert sum(len(trace["x"]) for trace in drawn) == spans


def themed(value: Any) -> Any:
    """Return the same with the theme's words as colours, as the page's script does."""
    if isinstance(value, dict):
        return {
            k: THEME.get(v, v) if isinstance(v, str) and "color" in k else themed(v) for k, v in value.items()
        }
    return [themed(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("index", range(7))
def test_files_are_valid_and_show_names_as_text(index: int, hostile: list[Figure], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = hostile[index]
    draw(figure, tmp_path / "figure.svg")
    tree = ET.parse(tmp_path / "figure.svg")  # noqa: S314 - our own file
    words = "".join(tree.getroot().itertext())
    assert "<b onmouseover=alert(1)>$x^{\\n" in words
    assert not any("onmouseover" in key for element in tree.iter() for key in element.attrib)


def test_files_are_of_their_kind_and_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = memory_map(streamed())
    starts = {".png": b"\x89PNG", ".svg": b"<?xml"}
    for suffix, start in starts.items():
        draw(figure, tmp_path / f"map{suffix}")
        assert (tmp_path / f"map{suffix}").read_bytes().startswith(start)
    draw(figure, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "map.svg").read_bytes()
    with pytest.raises(InputError, match="want a file"):
        draw(figure, tmp_path / "map.bmp")
