"""What the fast tier holds as a simulation goes on."""

from collections.abc import Sequence
from itertools import accumulate, chain

from tierline.report.figures.figure import Chart, Paint, Rule, Series
from tierline.report.figures.palette import ACTIVATIONS, BLUE, KV, STAGING, bytes_axis, seconds_axis
from tierline.sim.simulate import SimResult
from tierline.units import format_bytes


def residency_chart(result: SimResult) -> Chart:
    """Return weights, staging, KV and the rest as areas over the ends of the passes, and the capacity."""
    ends = tuple(accumulate(chain.from_iterable(p.pass_times_s for p in result.phases)))
    passes = result.schedule.passes
    parts: tuple[tuple[str, Paint, tuple[int, ...]], ...] = (
        ("weights", Paint(BLUE), _held([p.weights_bytes for p in passes])),
        ("staging", STAGING, _held([p.staging_bytes for p in passes])),
        ("KV cache", KV, _held([p.kv_bytes for p in passes])),
        ("other", ACTIVATIONS, _held([p.others_bytes for p in passes])),
    )
    tier = result.plan.machine.fast
    capacity = tier.capacity_bytes.value
    most = max(p.resident_bytes for p in passes)
    return Chart(
        title=f"{result.plan.model.name} on {result.plan.machine.name}: {tier.name}, {result.strategy}",
        x=seconds_axis("time", ends[-1]),
        y=bytes_axis("memory", max(most, capacity if capacity < 2 * most else 0)),
        series=tuple(
            Series(
                name,
                "area",
                (0.0, *ends),
                tuple(float(n) for n in counts),
                paint.colour,
                texture=paint.texture,
                hovers=tuple(f"{name}: {n:,} B ({format_bytes(n)})" for n in counts),
            )
            for name, paint, counts in parts
            if any(counts)
        ),
        rules=(Rule("y", capacity, f"{tier.name} has {format_bytes(capacity)}"),) * (capacity < 2 * most),
    )


def _held(counts: Sequence[int]) -> tuple[int, ...]:
    """Return what is held at the ends of the passes, and before them what the first one holds throughout."""
    return (counts[0], *counts)
