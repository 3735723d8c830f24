"""Text for people: a plan as tables on a terminal. Imports rich, so only printing pays for it."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.plan.plan import PhasePlan, Plan, TierUse
from tierline.plan.remedies import remedies
from tierline.plan.sensitivity import Kept
from tierline.report.schema import parameters_by_component, weights_name
from tierline.units import format_bytes, format_count, format_seconds

_BAR_WIDTH = 24
_WIDTH = 100


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a plan: verdict, footprint, tiers, phases, remedies and notes."""
    out = console_of(console)
    for part in _parts(plan):
        out.print(part)


def print_sensitivity(rows: Sequence[Kept], console: Console | None = None) -> None:
    """Print what keeping each part in another format costs; rows that change nothing are left out."""
    out = console_of(console)
    table = open_table(
        "keep", "format", "parameters", "weights", "fits", "added bytes", "read each pass", "tok/s"
    )
    for row in rows:
        if not row.added_bytes:
            continue
        speed = row.tokens_per_s or row.passes_per_s
        unit = "" if row.tokens_per_s else " passes/s"
        add_row(
            table,
            f"{row.selector} ({row.part})",
            row.format.name,
            f"{row.parameters:,}",
            format_bytes(row.weights_bytes),
            "yes" if row.fits else "no",
            f"{row.added_bytes:+,}",
            f"{row.added_read_bytes:+,}",
            "-" if speed is None else _figure(speed) + unit,
        )
    out.print(Text("\nwhat another format costs, one part at a time:", style="bold"))
    out.print(table)


def console_of(console: Console | None) -> Console:
    """Return `console`, or one that is wide enough for the tables where its output is no terminal."""
    out = console or Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    return out


def shown(text: str) -> str:
    """Return `text` with everything unprintable escaped: names come from files that others wrote."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _parts(plan: Plan) -> Iterator[RenderableType]:
    yield Text(shown(f"{plan.model.name} on {plan.machine.name}: {verdict(plan)}"), style="bold")
    yield Text(shown(_scenario(plan)), style="dim")
    yield Text()
    yield _footprint_table(plan)
    yield tier_table(plan.tiers)
    if plan.phases:
        yield phase_table(plan.phases)
        yield from _links(plan)
    first = plan.time_to_first_token_s
    if first is not None:
        yield Text(f"time to first token {format_seconds(first)}")
    if plan.actions_per_s is not None:
        yield Text(f"{plan.actions_per_s:,.1f} actions/s")
    lines = remedies(plan)
    if lines:
        yield Text("to go faster:" if plan.fits else "what to change:", style="bold")
    yield from (Text(f"  {shown(line)}") for line in lines)
    yield from (Text(f"note: {shown(note)}", style="dim") for note in plan.notes)


def verdict(plan: Plan) -> str:
    """Return whether it fits, and by how much not, in a line."""
    fast = plan.tiers[0]
    need, allowed = format_bytes(plan.footprint.total_bytes), format_bytes(fast.allowed_bytes)
    if plan.fits:
        return f"fits, all of it resident in {fast.name}"
    needs = f"needs {need}, {fast.name} allows {allowed}"
    if plan.short_bytes:
        needs += f"; short by {format_bytes(plan.short_bytes)}"
    if plan.strategy == "impossible":
        return f"impossible: {needs}"
    return f"streamed over {plan.residency.link}: {needs}"


def _scenario(plan: Plan) -> str:
    work, costing = plan.workload, plan.costing
    kept = "".join(f", {selector} {chosen.name}" for selector, chosen in costing.precision.keep)
    formats = (
        f"weights {weights_name(costing.precision)}{kept}, KV {costing.precision.kv.name}, "
        f"activations {costing.precision.activations.name} ({costing.activation_policy})"
    )
    tokens = f"batch {work.batch}, {work.prompt_tokens:,} prompt + {work.new:,} new tokens"
    images = f", {work.images:,} image{'s' * (work.images != 1)}" if work.images else ""
    return f"{formats}; {tokens}{images}"


def open_table(*columns: str) -> Table:
    """Return an empty table; its first column is of words, the others of figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _footprint_table(plan: Plan) -> Table:
    footprint = plan.footprint
    table = open_table("footprint", "parameters", "bytes", "")
    parameters = parameters_by_component(plan.model)
    for name, count in footprint.by_component_bytes.items():
        add_row(table, name, f"{parameters[name]:,}", f"{count:,}", format_bytes(count))
    tied = footprint.tied_weights_bytes
    if tied != footprint.weights_bytes:
        add_row(table, "(tied once)", f"{plan.model.tied_parameters:,}", f"{tied:,}", format_bytes(tied))
    others = {
        "KV cache": footprint.kv_cache_bytes,
        "activations": footprint.activation_bytes,
        "program": footprint.program_bytes,
        "runtime": footprint.runtime_bytes,
    }
    for name, count in others.items():
        if count:
            add_row(table, name, "", f"{count:,}", format_bytes(count))
    total = footprint.total_bytes
    add_row(table, "total", f"{plan.model.parameters:,}", f"{total:,}", format_bytes(total))
    return table


def tier_table(tiers: Sequence[TierUse]) -> Table:
    """Return how full each tier is; those that hold nothing are left out, but for the first."""
    table = open_table("tier", "used", "allowed", "")
    table.columns[3].justify = "left"
    for i, tier in enumerate(tiers):
        if i and not tier.used_bytes:
            continue
        share = tier.used_bytes / tier.allowed_bytes if tier.allowed_bytes else 1.0
        filled = min(_BAR_WIDTH, round(share * _BAR_WIDTH))
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        used, allowed = format_bytes(tier.used_bytes), format_bytes(tier.allowed_bytes)
        add_row(table, tier.name, used, allowed, f"{bar} {share:.0%}")
    return table


def phase_table(phases: Sequence[PhasePlan]) -> Table:
    """Return what a pass of each phase moves and computes, and how fast it is."""
    table = open_table("each pass", "passes", "weight bytes", "KV bytes", "FLOP", "time", "bound", "tok/s")
    for phase in phases:
        at_least, at_most = ("≥ ", "≤ ") if phase.compute_s is None else ("", "")
        add_row(
            table,
            phase.name,
            f"{phase.passes:,}",
            f"{phase.weight_read_bytes_per_pass:,}",
            f"{phase.kv_read_bytes // phase.passes:,}",
            format_count(phase.flop / phase.passes),
            "-" if phase.time_s is None else at_least + format_seconds(phase.time_s / phase.passes),
            "-" if phase.bound is None else phase.bound + (" (peak)" if phase.rate_kind == "peak" else ""),
            "-" if phase.tokens_per_s is None else at_most + _figure(phase.tokens_per_s),
        )
    return table


def _links(plan: Plan) -> Iterator[Text]:
    """Yield what crosses each link in a pass of the main phase, where something streams."""
    main = plan.main_phase
    if plan.strategy != "streamed" or main is None:
        return
    for use in main.links:
        moved = f"{use.traffic_bytes // main.passes:,} B"
        took = "" if use.time_s is None else f" in {format_seconds(use.time_s / main.passes)}"
        yield Text(shown(f"{main.name}: {moved} over {use.name} each pass{took}"))


def add_row(table: Table, *cells: str) -> None:
    """Add a row of cells, with what is unprintable in them escaped."""
    table.add_row(*(Text(shown(cell)) for cell in cells))


def _figure(value: float) -> str:
    if value < 1:
        return f"{value:.3g}"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
