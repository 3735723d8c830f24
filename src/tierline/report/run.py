"""A finished run as a table and as JSON."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from tierline.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from tierline.run.pace import Pace
    from tierline.run.report import Comparison, RoutedExperts, RunReport

_INNER = ("prediction", "experts")


def run_json(report: "RunReport") -> dict[str, object]:
    """Return the run in base units, units in the keys, with the rows planned | measured."""
    document: dict[str, object] = {
        field.name: getattr(report, field.name) for field in fields(report) if field.name not in _INNER
    }
    document["token_ids"] = list(report.token_ids)
    document["experts"] = None if report.experts is None else asdict(report.experts)
    document["paced"] = pace_json(report.prediction.pace)
    document["bound"] = report.prediction.bound
    document["planned_compute_s"] = report.prediction.compute_s
    document["planned_link_s"] = report.prediction.link_s
    document["planned_unrouted_s"] = report.prediction.unrouted_s
    document["rows"] = rows_json(report.rows)
    return document


def rows_json(rows: Iterable["Comparison"]) -> list[dict[str, object]]:
    """Return rows planned | measured in base units."""
    return [
        {
            "quantity": row.quantity,
            "unit": row.unit,
            "planned": row.planned,
            "measured": row.measured,
            "error_fraction": row.error_fraction,
        }
        for row in rows
    ]


def comparison_table(rows: Iterable["Comparison"], title: str) -> "Table":
    """Return the table planned | measured, with the error of each row."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("planned", "measured", "error"):
        table.add_column(heading, justify="right")
    for row in rows:
        error = row.error_fraction
        table.add_row(
            row.quantity,
            _shown(row.planned, row.unit),
            _shown(row.measured, row.unit),
            "-" if error is None else f"{error:+.1%}",
        )
    return table


def run_summary(report: "RunReport") -> str:
    """Return the lines under the table: where the weights were, the first token, who waited, the pace."""
    held, streamed = report.weights_pinned_bytes, report.weights_streamed_bytes
    lines = [
        f"weights: {format_bytes(held)} pinned, {format_bytes(streamed)} read per token, "
        f"at most {format_bytes(report.weights_resident_peak_bytes)} held at once",
    ]
    if report.experts is not None:
        lines.append(experts_line(report.experts))
    if report.time_to_first_token_s is not None:
        first = f"first token after {format_seconds(report.time_to_first_token_s)}"
        if report.stall_s_per_token is not None:
            waited = format_seconds(report.stall_s_per_token)
            first += f"; compute waited {waited} per token for the {report.prediction.link}"
        lines.append(first)
    if report.closest_choice is not None:
        position, margin = report.closest_choice
        lines.append(
            f"checked guessed tokens; closest choice: token {position + 1}, {margin:.3g} between the first "
            "two logits (a pass of one row may round otherwise where that is tiny)"
        )
    if report.prediction.pace is not None:
        lines.append(pace_line(report.prediction.pace, copied=report.prediction.host is not None))
    return "\n".join(lines)


def experts_line(experts: "RoutedExperts") -> str:
    """Return a line that says how many experts a token found in memory, and what it read of the others."""
    visited = experts.hits_per_token + experts.misses_per_token
    line = (
        f"experts: {format_bytes(experts.cache_bytes)} for them; a token found "
        f"{experts.hits_per_token:.1f} of {visited:.1f} there and read "
        f"{format_bytes(experts.read_bytes_per_token)}"
    )
    if experts.wasted_read_bytes_per_token:
        line += f", and {format_bytes(experts.wasted_read_bytes_per_token)} on wrong guesses"
    return line


def turn_line(report: "RunReport") -> str:
    """Return one turn of a conversation in a line: tokens, first token, rate, what was read per token."""
    parts = [f"{len(report.token_ids)} tokens"]
    if report.time_to_first_token_s is not None:
        parts.append(f"first after {format_seconds(report.time_to_first_token_s)}")
    if report.tokens_per_s_steady is not None:
        parts.append(f"{report.tokens_per_s_steady:.2f} tok/s")
    if report.read_bytes_per_token is not None:
        parts.append(f"{format_bytes(report.read_bytes_per_token)} read per token")
    return ", ".join(parts)


def _title(report: "RunReport") -> str:
    count = len(report.token_ids)
    return f"planned | measured, {count} tokens, bound: {report.prediction.bound}"


def pace_json(pace: "Pace | None") -> dict[str, object] | None:
    """Return the link that a run was slowed to, None for a run at the disk's own rate."""
    if pace is None:
        return None
    return {
        "machine": pace.machine,
        "link": pace.link,
        "bytes_per_s": pace.bytes_per_s,
        "latency_s": pace.latency_s,
    }


def pace_line(pace: "Pace", *, copied: bool = False) -> str:
    """Return a line that says what was slowed, to which link and rate; compute is this computer's.

    `copied` is whether a copy from a host tier stands for the link, or else reads do.
    """
    if copied:
        return (
            f"paced: a copy within this computer's memory stands for {pace.name}, "
            f"{format_rate(pace.bytes_per_s)} and {format_seconds(pace.latency_s)} a copy; disk and compute "
            "are this computer's"
        )
    return (
        f"paced: reads slowed to {pace.name}, {format_rate(pace.bytes_per_s)} and "
        f"{format_seconds(pace.latency_s)} a request; compute is this computer's"
    )


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "B":
        return format_bytes(value)
    return format_rate(value) if unit == "B/s" else f"{value:.2f} {unit}"


def print_run(report: "RunReport") -> None:
    """Print the table and the summary to stdout."""
    from rich.console import Console

    console = Console()
    console.print(comparison_table(report.rows, _title(report)))
    console.print(run_summary(report), highlight=False, soft_wrap=True)
