"""The figures of a plan as the page lists them: their place in `tierline plan --json`, value and text."""

from collections.abc import Iterator

from tierline.report.schema import Json
from tierline.units import format_bytes, format_seconds

_FOOTPRINT = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "activation_bytes": "activations",
    "runtime_bytes": "runtime",
    "total_bytes": "in all",
}


def facts(document: Json) -> list[Json]:
    """Return the figures of `plan_json`'s document in the order in which they are read.

    `key` is the path in the document (a phase goes by its name), `value` what is there, `text` the same for
    people; a figure that is not known has the value None. `main` are the few to see first.
    """
    phases = document["phases"]
    last = max(reversed(phases), key=lambda p: p["passes"])["name"] if phases else ""
    first = {"tiers.0.used_bytes", "time_to_first_token_s", f"phases.{last}.bound"}
    first |= {f"phases.{last}.tokens_per_s", "actions_per_s", "residency.streamed_bytes"}
    return [
        {"key": key, "label": label, "value": value, "text": text, "main": key in first}
        for key, label, value, text in _rows(document)
    ]


def _rows(document: Json) -> Iterator[tuple[str, str, object, str]]:
    for name, label in _FOOTPRINT.items():
        count = document["footprint"][name]
        if count or name == "total_bytes":
            yield f"footprint.{name}", label, count, format_bytes(count)
    fast = document["tiers"][0]
    used, allowed = fast["used_bytes"], fast["allowed_bytes"]
    yield (
        "tiers.0.used_bytes",
        f"{fast['name']} used",
        used,
        f"{format_bytes(used)} of {format_bytes(allowed)}",
    )
    residency = document["residency"]
    if residency["link"]:
        count = residency["streamed_bytes"]
        label = f"streamed over {residency['link']}"
        yield "residency.streamed_bytes", label, count, format_bytes(count)
    for phase in document["phases"]:
        yield from _phase(phase)
    first, rate = document["time_to_first_token_s"], document["actions_per_s"]
    yield "time_to_first_token_s", "time to first token", first, _seconds(first, "")
    if rate is not None:
        yield "actions_per_s", "actions", rate, f"{rate:,.1f} per second"


def _phase(phase: Json) -> Iterator[tuple[str, str, object, str]]:
    """Yield a phase's figures; its times are bounds where the compute rate is not known."""
    name, bounded = phase["name"], phase["compute_s"] is None
    key = f"phases.{name}"
    count = phase["weight_read_bytes_per_pass"]
    yield f"{key}.weight_read_bytes_per_pass", f"{name}: weights read per pass", count, format_bytes(count)
    seconds = phase["time_s"]
    yield (
        f"{key}.time_s",
        f"{name}: {phase['passes']:,} pass{'es' * (phase['passes'] != 1)}",
        seconds,
        _seconds(seconds, "≥ " * bounded),
    )
    yield f"{key}.bound", f"{name}: bound by", phase["bound"], phase["bound"] or "not known"
    rate = phase["tokens_per_s"]
    if rate is not None:
        text = f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}"
        yield f"{key}.tokens_per_s", f"{name}: speed", rate, f"{'≤ ' * bounded}{text} tok/s"


def _seconds(seconds: float | None, before: str) -> str:
    return "not known" if seconds is None else before + format_seconds(seconds)
