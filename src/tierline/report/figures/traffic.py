"""What one pass of each phase moves over each link."""

from collections.abc import Iterator

from tierline.plan.plan import LinkUse, PhasePlan, Plan
from tierline.report.figures.figure import Bar, Bars, Paint, Segment
from tierline.report.figures.memory import amount
from tierline.report.figures.palette import ACTIVATIONS, BLUE, KV, STREAMED, bytes_axis
from tierline.units import format_bytes, format_seconds

_KINDS = {"kv": ("KV cache", KV), "activations": ("activations", ACTIVATIONS)}


def traffic_per_pass(plan: Plan) -> Bars:
    """Return a bar per phase and link: the bytes of the phase's last pass, by what they are.

    Weights that come over a link from another tier are hatched.
    """
    bars = tuple(_bar(plan, phase, use) for phase in plan.phases for use in phase.links if use.traffic_bytes)
    axis = bytes_axis("traffic of one pass", max((bar.total for bar in bars), default=1))
    return Bars(f"{plan.model.name} on {plan.machine.name}: traffic", axis, bars)


def _bar(plan: Plan, phase: PhasePlan, use: LinkUse) -> Bar:
    segments = tuple(_segments(plan, phase, use.name)) if phase.steps else (_all(phase, use),)
    total = int(sum(segment.value for segment in segments))
    took = "" if use.time_s is None else f" in {format_seconds(use.time_s / phase.passes)}"
    return Bar(f"{phase.name} {use.name}", segments, None, f"{format_bytes(total)}{took}")


def _all(phase: PhasePlan, use: LinkUse) -> Segment:
    """Return the bytes of a pass as one part: of several devices only their sums are known."""
    count = use.traffic_bytes // phase.passes
    says = f"{phase.name} over {use.name}, each pass, all devices: {amount(count)}"
    return Segment("everything", count, Paint(BLUE), says)


def _segments(plan: Plan, phase: PhasePlan, link: str) -> Iterator[Segment]:
    totals: dict[str, int] = {}
    for step in phase.steps:
        for read in step.reads:
            if read.link == link:
                kind = read.name if read.name in _KINDS else "weights"
                totals[kind] = totals.get(kind, 0) + read.traffic_bytes
    streamed = link in plan.residency.route
    for kind in ("weights", *_KINDS):
        count = totals.get(kind, 0)
        if count:
            label, paint = _KINDS.get(kind, ("weights", Paint(BLUE)))
            if streamed:
                label, paint = "weights, streamed", Paint(BLUE, STREAMED)
            yield Segment(label, count, paint, f"{phase.name} over {link}, each pass: {amount(count)}")
