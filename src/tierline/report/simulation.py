"""A simulation as JSON and as tables on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tierline.report.schema import Json, precision_json, workload_json
from tierline.sim.break_even import BreakEven
from tierline.sim.measure import LinkMeasure, PhaseMeasure
from tierline.sim.simulate import SimResult
from tierline.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PERCENTILES = (0.5, 0.9, 0.99)
_WIDTH = 110


def simulation_json(result: SimResult, points: BreakEven) -> Json:
    """Return a simulation as JSON-ready data. Counts and links are over all phases simulated; `bound`, rates
    and stalls are the main phase's.
    """
    main, counts = result.main, result.schedule.counts
    return {
        "model": result.plan.model.name,
        "machine": result.plan.machine.name,
        "workload": workload_json(result.plan.workload),
        "precision": precision_json(result.plan.costing),
        "strategy": result.strategy,
        "policy": result.policy,
        "prefetch_depth": result.pipeline.prefetch_depth,
        "tokens_per_s_steady": result.tokens_per_s_steady,
        "time_to_first_token_s": result.time_to_first_token_s,
        "time_s": result.time_s,
        "bound": main.bound,
        "hits": counts.hits,
        "cold_loads": counts.cold_loads,
        "evictions": counts.evictions,
        "reloads": counts.reloads,
        "row_reads": result.schedule.row_reads,
        "page_ins": result.schedule.page_ins,
        "cold_load_bytes": counts.cold_bytes,
        "reload_bytes": counts.reload_bytes,
        "links": [_link_json(link) for link in result.links],
        "overlap_fraction": main.overlap_fraction,
        "stall_s_per_pass": main.stall_s_per_pass,
        "stall_s": dict(main.stall_s),
        "energy_j": result.energy_j,
        "phases": [_phase_json(phase) for phase in result.phases],
        "residency": _residency_json(result),
        "break_even": {
            "link": points.link,
            "streaming": points.streaming,
            "resident_pass_s": points.resident_pass_s,
            "resident_rate_bytes_per_s": points.resident_rate_bytes_per_s,
            "wanted_tokens_per_s": points.wanted_tokens_per_s,
            "wanted_rate_bytes_per_s": points.wanted_rate_bytes_per_s,
            "no_reload_capacity_bytes": points.no_reload_capacity_bytes,
        },
        "notes": list(result.notes),
    }


def print_simulation(result: SimResult, points: BreakEven, console: "Console | None" = None) -> None:
    """Print a simulation: what is fetched, the phases, the links, who waited for whom, break-even points."""
    from rich.console import Console

    out = console or Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    for part in _parts(result, points):
        out.print(part)


def headline(result: SimResult) -> str:
    """Return strategy, rate and bound in a line."""
    how = result.strategy + (f", {result.policy}" if result.policy else "")
    rate = result.tokens_per_s_steady
    median_s = result.main.percentile_s(0.5)
    speed = f"{rate:.3g} tok/s" if rate is not None else f"{format_seconds(median_s)} a pass"
    where = f"{result.plan.model.name} on {result.plan.machine.name}"
    return f"{where}: {how}: {speed}, bound by {result.main.bound}"


def _link_json(link: LinkMeasure) -> Json:
    return {
        "name": link.name,
        "traffic_bytes": link.traffic_bytes,
        "busy_s": link.busy_s,
        "busy_fraction": link.busy_fraction,
        "achieved_bytes_per_s": link.achieved_bytes_per_s,
        "sustained_bytes_per_s": link.sustained_bytes_per_s,
    }


def _phase_json(phase: PhaseMeasure) -> Json:
    return {
        "name": phase.name,
        "passes": len(phase.pass_times_s),
        "time_s": phase.time_s,
        "tokens": phase.tokens,
        "tokens_per_s_steady": phase.tokens_per_s_steady,
        "first_pass_s": phase.pass_times_s[0],
        "last_pass_s": phase.pass_times_s[-1],
        **{f"p{round(100 * p)}_pass_s": phase.percentile_s(p) for p in _PERCENTILES},
        "bound": phase.bound,
        "compute_busy_fraction": phase.compute_busy_fraction,
        "links": [_link_json(link) for link in phase.links],
        "overlap_fraction": phase.overlap_fraction,
        "stall_s": dict(phase.stall_s),
        "stall_s_per_pass": phase.stall_s_per_pass,
    }


def _residency_json(result: SimResult) -> Json:
    last = result.schedule.passes[-1]
    return {
        "tier": result.plan.machine.fast.name,
        "peak_bytes": max(p.resident_bytes for p in result.schedule.passes),
        "weights_bytes": last.weights_bytes,
        "staging_bytes": last.staging_bytes,
        "kv_bytes": last.kv_bytes,
        "others_bytes": last.others_bytes,
        "home_bytes": dict(result.schedule.home_bytes),
    }


def _parts(result: SimResult, points: BreakEven) -> "Iterator[RenderableType]":
    from rich.text import Text

    from tierline.report.tables import shown

    counts, schedule = result.schedule.counts, result.schedule
    yield Text(shown(headline(result)), style="bold")
    yield Text(
        f"{counts.cold_loads:,} cold loads ({format_bytes(counts.cold_bytes)}), "
        f"{counts.evictions:,} evictions, "
        f"{counts.reloads:,} reloads ({format_bytes(counts.reload_bytes)}), {counts.hits:,} hits"
    )
    last = schedule.passes[-1]
    yield Text(
        f"{result.plan.machine.fast.name} at the end: weights {format_bytes(last.weights_bytes)}, staging "
        f"{format_bytes(last.staging_bytes)}, KV {format_bytes(last.kv_bytes)}, other "
        f"{format_bytes(last.others_bytes)}"
    )
    yield Text()
    yield _phase_table(result.phases)
    yield _link_table(result)
    for phase in result.phases:
        for cause, seconds in phase.stall_s.items():
            yield Text(shown(f"{phase.name}: waits {format_seconds(seconds)} in all for {cause}"))
    first = result.time_to_first_token_s
    if first is not None:
        yield Text(f"time to first token {format_seconds(first)}, loading included")
    if result.energy_j is not None:
        yield Text(f"energy {result.energy_j:.3g} J")
    yield from (Text(shown(line)) for line in _points(points))
    yield from (Text(f"note: {shown(note)}", style="dim") for note in result.notes)


def _points(points: BreakEven) -> Iterator[str]:
    if points.link is not None:
        rate = points.resident_rate_bytes_per_s
        answer = f"from {format_rate(rate)}" if rate else "at no rate"
        yield f"break-even: {points.streaming} over {points.link} is as fast as all resident {answer}"
        if points.wanted_tokens_per_s is not None:
            wanted = points.wanted_rate_bytes_per_s
            answer = f"from {format_rate(wanted)}" if wanted else "at no rate"
            yield f"break-even: {points.wanted_tokens_per_s:g} tok/s {answer} of {points.link}"
    yield f"break-even: nothing is fetched twice from {points.no_reload_capacity_bytes:,} B for weights"


def _phase_table(phases: Sequence[PhaseMeasure]) -> "RenderableType":
    columns = ("phase", "passes", "time", "first", "p50", "p99", "tok/s", "compute", "overlap", "bound")
    rows = []
    for phase in phases:
        rate = phase.tokens_per_s_steady
        times = (phase.time_s, phase.pass_times_s[0], phase.percentile_s(0.5), phase.percentile_s(0.99))
        rows.append(
            (
                phase.name,
                f"{len(phase.pass_times_s):,}",
                *(format_seconds(seconds) for seconds in times),
                "-" if rate is None else f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}",
                f"{phase.compute_busy_fraction:.0%}",
                "-" if phase.overlap_fraction is None else f"{phase.overlap_fraction:.0%}",
                phase.bound,
            )
        )
    return _table(columns, rows)


def _link_table(result: SimResult) -> "RenderableType":
    rows = []
    for link in result.links:
        rates = (link.achieved_bytes_per_s, link.sustained_bytes_per_s)
        rows.append(
            (
                link.name,
                f"{link.traffic_bytes:,}",
                format_bytes(link.traffic_bytes),
                f"{link.busy_fraction:.0%}",
                *("-" if rate is None else format_rate(rate) for rate in rates),
            )
        )
    return _table(("link", "bytes", "", "busy", "achieved", "sustained"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from tierline.report.tables import shown

    made = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for cells in rows:
        made.add_row(*(Text(shown(cell)) for cell in cells))
    return made
