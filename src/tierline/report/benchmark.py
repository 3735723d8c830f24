"""A benchmark in the table that users of llama-bench know, and as JSON."""

from typing import TYPE_CHECKING

from tierline.report.run import pace_json, pace_line
from tierline.units import format_bytes, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tierline.run.benchmark import Benchmark

_BILLION = 1e9


def benchmark_text(found: "Benchmark") -> str:
    """Return the rows as a Markdown table, then tiers, memory and what was predicted of decode."""
    return "\n".join([*_table(found), "", *_lines(found)])


def benchmark_json(found: "Benchmark") -> dict[str, object]:
    """Return the benchmark in base units, every repetition included."""
    return {
        "model": found.model,
        "weights_bytes": found.weights_bytes,
        "parameters": found.parameters,
        "threads": found.threads,
        "tests": [
            {
                "test": series.name,
                "tokens": series.tokens,
                "tokens_per_s": series.tokens_per_s,
                "spread_tokens_per_s": series.spread_tokens_per_s,
                "samples_tokens_per_s": list(series.samples),
            }
            for series in found.series
        ],
        "planned_tokens_per_s": found.prediction.tokens_per_s,
        "bound": found.prediction.bound,
        "paced": pace_json(found.prediction.pace),
        "weights_pinned_bytes": found.pinned_bytes,
        "weights_streamed_bytes": found.streamed_bytes,
        "read_bytes_per_token": found.read_bytes_per_token,
        "allowed_bytes": found.allowed_bytes,
        "projected_bytes": found.prediction.peak_bytes,
        "measured_bytes": found.measured_bytes,
    }


def _table(found: "Benchmark") -> "Iterator[str]":
    size, count = format_bytes(found.weights_bytes), f"{found.parameters / _BILLION:.2f} B"
    rows = [
        (found.model, size, count, "CPU", str(found.threads), series.name,
         f"{series.tokens_per_s:.2f} ± {series.spread_tokens_per_s:.2f}")
        for series in found.series
    ]  # fmt: skip
    headings = ("model", "size", "params", "backend", "threads", "test", "t/s")
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rules = [f"{'-' * (width - 1)}:" if i else "-" * width for i, width in enumerate(widths)]
    for cells in (headings, tuple(rules), *rows):
        padded = (c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        yield f"| {' | '.join(padded)} |"


def _lines(found: "Benchmark") -> "Iterator[str]":
    yield (
        f"weights: {format_bytes(found.pinned_bytes)} pinned, {format_bytes(found.streamed_bytes)} streamed "
        f"each pass; {format_bytes(found.read_bytes_per_token)} read per token"
    )
    allowed = "" if found.allowed_bytes is None else f" of {format_bytes(found.allowed_bytes)} allowed"
    yield (
        f"memory: {format_bytes(found.measured_bytes)} at most{allowed}, "
        f"{format_bytes(found.prediction.peak_bytes)} projected"
    )
    decode, planned = found.series[-1].tokens_per_s, found.prediction.tokens_per_s
    rate = found.prediction.read_bytes_per_s
    link = "" if rate is None else f", {found.prediction.link} {format_rate(rate)}"
    yield (
        f"decode: planned {planned:.2f} tok/s ({planned / decode - 1:+.1%}), bound: "
        f"{found.prediction.bound}{link}"
    )
    if found.prediction.pace is not None:
        yield pace_line(found.prediction.pace)
