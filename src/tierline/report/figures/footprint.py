"""Footprints: by format of the weights, and as context and batch grow, against what the fast tier allows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tierline.errors import InputError
from tierline.formats.parse import parse_weights
from tierline.plan.plan import Plan
from tierline.plan.remedies import rebuild
from tierline.report.figures.figure import Axis, Bar, Bars, Chart, Rule, Segment, Series
from tierline.report.figures.memory import amount, one_device, other_segments, used_of
from tierline.report.figures.palette import COLOURS, DASHES, MARKERS, bytes_axis, component_paint
from tierline.report.schema import weights_name
from tierline.units import format_bytes

FORMATS = ("bf16", "int8", "mxfp8", "int4:group=128", "mxfp4")
_BATCHES = (1, 2, 4, 8)
_LEAST_CONTEXT, _MOST_CONTEXT = 128, 2**20
_BEYOND = 4
_MARGIN = 1.04
_BELOW, _ABOVE = 0.8, 1.2


def footprint_by_format(plan: Plan, formats: Sequence[str] = FORMATS) -> Bars:
    """Return the plan's footprint as it is and with its weights in each of `formats`, components stacked.

    What is kept in other formats stays so. Raises InputError for a format that is not known or does not suit.
    """
    one_device(plan, "the footprint by format")
    plans = {weights_name(plan.costing.precision): plan}
    for name in formats:
        chosen = parse_weights(name)
        if chosen.name not in plans:
            precision = replace(plan.costing.precision, weights=chosen)
            plans[chosen.name] = rebuild(plan, precision=precision)
    allowed = plan.tiers[0].allowed_bytes
    bars = tuple(
        Bar(name, tuple(_segments(other)), allowed, used_of(other.footprint.total_bytes, allowed))
        for name, other in plans.items()
    )
    most = max(bar.total for bar in bars)
    axis = bytes_axis("footprint", most, high=max(most, min(allowed, 2 * most)) * _MARGIN)
    return Bars(f"{plan.model.name}: footprint by format of the weights", axis, bars)


def footprint_by_context(plan: Plan, batches: Sequence[int] = _BATCHES) -> Chart:
    """Return the footprint over the context for multiples of the plan's batch, and where it hits the tier.

    As with `--context`, the new tokens stay and the prompt grows. Points mark the longest that fits.
    """
    one_device(plan, "the footprint over the context")
    most = max(_BEYOND * plan.workload.context, plan.model.max_context or 0, 2 * _LEAST_CONTEXT)
    most = min(most, _MOST_CONTEXT)
    contexts = sorted({*(2**i for i in range(7, most.bit_length()) if 2**i < most), most})
    allowed = plan.tiers[0].allowed_bytes
    lines = [
        _growth(plan, batch * plan.workload.batch, contexts, place) for place, batch in enumerate(batches)
    ]
    hits = [found for place, line in enumerate(lines) if (found := _hit(plan, line, place, most)) is not None]
    top = max(max(line.ys) for line in lines)
    weights = plan.footprint.weights_bytes
    seen = (allowed,) * (allowed < 2 * top)
    return Chart(
        title=f"{plan.model.name} on {plan.machine.name}: memory as the context grows",
        x=Axis("context", "tokens", log=True, low=contexts[0], high=1.1 * most),
        y=replace(
            bytes_axis("footprint", top, log=True),
            low=_BELOW * min((weights, *seen)),
            high=_ABOVE * max((top, *seen)),
        ),
        series=(*lines, *hits),
        rules=(
            *(Rule("y", limit, f"{plan.tiers[0].name} allows {format_bytes(limit)}") for limit in seen),
            Rule("y", weights, f"weights alone {format_bytes(weights)}", "dot", "faint"),
        ),
        legend_title="batch",
    )


def _segments(plan: Plan) -> Iterator[Segment]:
    for place, (name, count) in enumerate(plan.footprint.by_component_bytes.items()):
        if count:
            yield Segment(name, count, component_paint(place), amount(count))
    yield from other_segments(plan)


def _growth(plan: Plan, batch: int, contexts: Sequence[int], place: int) -> Series:
    totals = [_at(plan, batch, context).footprint for context in contexts]
    return Series(
        name=f"{batch:,}",
        kind="line",
        xs=tuple(float(c) for c in contexts),
        ys=tuple(float(t.total_bytes) for t in totals),
        colour=COLOURS[place % len(COLOURS)],
        dash=DASHES[place % len(DASHES)],
        hovers=tuple(
            f"batch {batch:,}, {c:,} tokens: {amount(t.total_bytes)}; KV {amount(t.kv_cache_bytes)}"
            for c, t in zip(contexts, totals, strict=True)
        ),
    )


def _hit(plan: Plan, line: Series, place: int, most: int) -> Series | None:
    """Return the point at the longest context that fits; None where none does, or all that are drawn do."""
    batch = int(line.name.replace(",", ""))
    fitting, failing = 1, most
    if _short(plan, batch, failing) == 0 or _short(plan, batch, fitting) > 0:
        return None
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if _short(plan, batch, middle):
            failing = middle
        else:
            fitting = middle
    if fitting < line.xs[0]:
        return None
    total = _at(plan, batch, fitting).footprint.total_bytes
    says = f"batch {batch:,}: {fitting:,} tokens fit, {amount(total)}; one more does not"
    return Series(
        name=f"batch {batch:,}, the last token that fits",
        kind="points",
        xs=(float(fitting),),
        ys=(float(total),),
        colour=line.colour,
        marker=MARKERS[place % len(MARKERS)],
        hovers=(says,),
        tags=(f"{fitting:,}",),
        in_legend=False,
    )


def _short(plan: Plan, batch: int, context: int) -> int:
    return _at(plan, batch, context).short_bytes


def _at(plan: Plan, batch: int, context: int) -> Plan:
    """Return the plan at another batch and context: the new tokens are kept, half of a short context."""
    if context < 1:
        raise InputError(f"a context of {context} tokens")
    new = min(plan.workload.new, context // 2)
    work = replace(plan.workload, batch=batch, prompt_tokens=context - new, new=new)
    return rebuild(plan, workload=work)
