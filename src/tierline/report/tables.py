"""Text for people: a plan as tables on a terminal. Imports rich, so only printing pays for it."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.plan.guesses import Guesses, free_rows
from tierline.plan.plan import PhasePlan, Plan, TierUse
from tierline.plan.remedies import remedies
from tierline.plan.sensitivity import Kept
from tierline.report.quality import quality_line
from tierline.report.rows import Rows, footprint_rows, guesses_line, phase_rows, sensitivity_rows, used_tiers
from tierline.report.schema import weights_name
from tierline.units import format_bytes, format_seconds

_BAR_WIDTH = 24
_WIDTH = 100


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a plan: verdict, footprint, tiers, phases, remedies and notes."""
    out = console_of(console)
    for part in _parts(plan):
        out.print(part)


def print_guesses(guesses: Guesses, console: Console | None = None) -> None:
    """Print what checking guesses in a pass takes, and when it pays."""
    console_of(console).print(Text(shown(guesses_line(guesses))))


def print_sensitivity(rows: Sequence[Kept], console: Console | None = None) -> None:
    """Print what keeping each part in another format costs; rows that change nothing are left out."""
    out = console_of(console)
    table = _filled(sensitivity_rows(rows))
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
    yield Text(shown(asked(plan)), style="dim")
    yield Text()
    yield _filled(footprint_rows(plan))
    if (line := quality_line(plan.costing.precision)) is not None:
        yield Text(line, style="dim")
    yield tier_table(plan.tiers)
    if plan.parallel is not None:
        from tierline.report.tables_parallel import parallel_parts

        yield from parallel_parts(plan, plan.parallel)
    if plan.phases:
        yield phase_table(plan.phases)
        yield from _links(plan)
    first = plan.time_to_first_token_s
    if first is not None:
        yield Text(f"time to first token {format_seconds(first)}")
    if (free := free_rows(plan)) is not None:
        yield Text(f"{free:,} more rows in a decode pass are free (guesses, other sequences)")
    if plan.actions_per_s is not None:
        yield Text(f"{plan.actions_per_s:,.1f} actions/s")
    lines = remedies(plan)
    if lines:
        yield Text("to go faster:" if plan.fits else "what to change:", style="bold")
    yield from (Text(f"  {shown(line)}") for line in lines)
    yield from (Text(f"note: {shown(note)}", style="dim") for note in plan.notes)


def verdict(plan: Plan) -> str:
    """Return whether it fits, and by how much not, in a line."""
    if plan.parallel is not None:
        return _split_verdict(plan)
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


def _split_verdict(plan: Plan) -> str:
    count = len(plan.parallel.devices) if plan.parallel else 1
    how = f"{plan.costing.split} over {count} device{'s' * (count > 1)}"
    if plan.fits:
        return f"fits, {how}"
    short = f"; a device is short by {format_bytes(plan.short_bytes)}" if plan.short_bytes else ""
    return f"{plan.strategy}, {how}{short}"


def asked(plan: Plan) -> str:
    """Return formats and workload in a line."""
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


def _filled(content: Rows) -> Table:
    table = open_table(*content.columns)
    for cells in content.rows:
        add_row(table, *cells)
    return table


def tier_table(tiers: Sequence[TierUse]) -> Table:
    """Return how full each tier is; those that hold nothing are left out, but for the first."""
    table = open_table("tier", "used", "allowed", "")
    table.columns[3].justify = "left"
    for tier, share in used_tiers(tiers):
        filled = min(_BAR_WIDTH, round(share * _BAR_WIDTH))
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        used, allowed = format_bytes(tier.used_bytes), format_bytes(tier.allowed_bytes)
        add_row(table, tier.name, used, allowed, f"{bar} {share:.0%}")
    return table


def phase_table(phases: Sequence[PhasePlan]) -> Table:
    """Return what a pass of each phase moves and computes, and how fast it is."""
    return _filled(phase_rows(phases))


def _links(plan: Plan) -> Iterator[Text]:
    """Yield what crosses each link in a pass of the main phase, where something streams."""
    main = plan.main_phase
    if plan.strategy != "streamed" or main is None:
        return
    for use in main.links:
        moved = f"{use.traffic_bytes // main.passes:,} B"
        took = "" if use.time_s is None else f" in {format_seconds(use.time_s / main.passes)}"
        who = " (bytes of all devices, time of the busiest)" if _each_has(plan, use.name) else ""
        yield Text(shown(f"{main.name}: {moved} over {use.name} each pass{took}{who}"))


def _each_has(plan: Plan, link: str) -> bool:
    """Return whether every device of several has a link of this name of its own."""
    if plan.parallel is None:
        return False
    from tierline.plan.shards import shared_links

    return link not in shared_links(plan.machine)


def add_row(table: Table, *cells: str) -> None:
    """Add a row of cells, with what is unprintable in them escaped."""
    table.add_row(*(Text(shown(cell)) for cell in cells))
