"""The rows of a plan's tables as text: the terminal and the report print the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tierline.plan.guesses import Guesses
from tierline.plan.plan import PhasePlan, Plan, TierUse
from tierline.plan.sensitivity import Kept
from tierline.report.schema import parameters_by_component
from tierline.units import format_bytes, format_count, format_seconds


@dataclass(frozen=True, slots=True)
class Rows:
    """A table of text: the first `words` columns are words, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    title: str = ""


def footprint_rows(plan: Plan) -> Rows:
    """Return what is held: components, the model with tied tensors once, everything else, the total."""
    return Rows(("footprint", "parameters", "bytes", ""), tuple(_footprint(plan)))


def _footprint(plan: Plan) -> Iterator[tuple[str, ...]]:
    footprint = plan.footprint
    parameters = parameters_by_component(plan.model)
    for name, count in footprint.by_component_bytes.items():
        yield name, f"{parameters[name]:,}", f"{count:,}", format_bytes(count)
    tied = footprint.tied_weights_bytes
    if tied != footprint.weights_bytes:
        yield "(tied once)", f"{plan.model.tied_parameters:,}", f"{tied:,}", format_bytes(tied)
    others = {
        "KV cache": footprint.kv_cache_bytes,
        "activations": footprint.activation_bytes,
        "program": footprint.program_bytes,
        "runtime": footprint.runtime_bytes,
    }
    for name, count in others.items():
        if count:
            yield name, "", f"{count:,}", format_bytes(count)
    total = footprint.total_bytes
    yield "total", f"{plan.model.parameters:,}", f"{total:,}", format_bytes(total)


def used_tiers(tiers: Sequence[TierUse]) -> list[tuple[TierUse, float]]:
    """Return the tiers that hold something, and the first, with the share of what is allowed."""
    held = [tier for i, tier in enumerate(tiers) if i == 0 or tier.used_bytes]
    return [(t, t.used_bytes / t.allowed_bytes if t.allowed_bytes else 1.0) for t in held]


def phase_rows(phases: Sequence[PhasePlan]) -> Rows:
    """Return what a pass of each phase moves and computes, and how fast it is."""
    columns = ("each pass", "passes", "weight bytes", "KV bytes", "FLOP", "time", "bound", "tok/s")
    return Rows(columns, tuple(_phase(phase) for phase in phases))


def _phase(phase: PhasePlan) -> tuple[str, ...]:
    at_least, at_most = ("≥ ", "≤ ") if phase.compute_s is None else ("", "")
    return (
        phase.name,
        f"{phase.passes:,}",
        f"{phase.weight_read_bytes_per_pass:,}",
        f"{phase.kv_read_bytes // phase.passes:,}",
        format_count(phase.flop / phase.passes),
        "-" if phase.time_s is None else at_least + format_seconds(phase.time_s / phase.passes),
        "-" if phase.bound is None else phase.bound + (" (peak)" if phase.rate_kind == "peak" else ""),
        "-" if phase.tokens_per_s is None else at_most + figure(phase.tokens_per_s),
    )


def sensitivity_rows(kept: Sequence[Kept]) -> Rows:
    """Return what keeping each part in another format costs, without what changes nothing."""
    columns = ("keep", "format", "parameters", "weights", "fits", "added bytes", "read each pass", "tok/s")
    return Rows(columns, tuple(_kept(row) for row in kept if row.added_bytes), words=2)


def _kept(row: Kept) -> tuple[str, ...]:
    speed = row.tokens_per_s or row.passes_per_s
    unit = "" if row.tokens_per_s else " passes/s"
    return (
        f"{row.selector} ({row.part})",
        row.format.name,
        f"{row.parameters:,}",
        format_bytes(row.weights_bytes),
        "yes" if row.fits else "no",
        f"{row.added_bytes:+,}",
        f"{row.added_read_bytes:+,}",
        "-" if speed is None else figure(speed) + unit,
    )


def figure(value: float) -> str:
    """Return a number that people compare: about three significant digits."""
    if value < 1:
        return f"{value:.3g}"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def guesses_line(guesses: Guesses) -> str:
    """Return in a sentence what checking guesses in a pass takes, and when it pays."""
    least = guesses.break_even_tokens_per_pass
    if guesses.pass_s is None or guesses.draft_s is None or guesses.plain_pass_s is None or least is None:
        return f"{guesses.draft_tokens} guesses a pass: what they take is not known, a rate is missing"
    takes = f"a pass takes {format_seconds(guesses.pass_s)} instead of {format_seconds(guesses.plain_pass_s)}"
    if guesses.draft_bytes:
        takes = (
            f"the draft model takes {format_bytes(guesses.draft_bytes)} that could pin weights and "
            f"{format_seconds(guesses.draft_s)} to guess, {takes}"
        )
    pays = (
        f"it pays from {least:.2f} tokens kept per pass on"
        if guesses.pays
        else f"it cannot pay: {least:.2f} tokens per pass would have to be kept"
    )
    return f"{guesses.draft_tokens} guesses a pass: {takes}; {pays}"
