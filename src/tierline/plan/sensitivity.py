"""What keeping each part of a model in another format costs: every row is a plan that was built with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tierline.formats.format import Format
from tierline.models.description import Model
from tierline.plan.plan import Plan
from tierline.plan.remedies import rebuild

DEFAULT_FORMATS = ("bf16", "fp16", "int8", "mxfp4")

Part = Literal["component", "class"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A part of the model in another format, and what comes of it.

    `added_bytes` is the change of the weights' footprint (negative if it shrinks), `added_read_bytes` that of
    what a pass of the main phase reads. `passes_per_s` is that phase's, `tokens_per_s` where it makes tokens;
    None where not known.
    """

    selector: str
    part: Part
    format: Format
    parameters: int
    weights_bytes: int
    added_bytes: int
    added_read_bytes: int
    fits: bool
    passes_per_s: float | None
    tokens_per_s: float | None


def sensitivity(plan: Plan, formats: Sequence[Format]) -> tuple[Kept, ...]:
    """Return what keeping each component and each tensor class of the plan's model in each format costs.

    Parts are kept one at a time, beside what the plan keeps already, whose place they take where both match.
    One plan is built for each part and format.
    """
    rows = []
    for selector, (part, parameters) in parts(plan.model).items():
        for chosen in formats:
            precision = plan.costing.precision
            kept = replace(precision, keep=(*precision.keep, (selector, chosen)))
            rows.append(_row(plan, rebuild(plan, precision=kept), part, selector, chosen, parameters))
    return tuple(rows)


def _row(before: Plan, after: Plan, part: Part, selector: str, chosen: Format, parameters: int) -> Kept:
    main = after.main_phase
    return Kept(
        selector=selector,
        part=part,
        format=chosen,
        parameters=parameters,
        weights_bytes=after.footprint.weights_bytes,
        added_bytes=after.footprint.weights_bytes - before.footprint.weights_bytes,
        added_read_bytes=_read_bytes(after) - _read_bytes(before),
        fits=after.fits,
        passes_per_s=main.passes / main.time_s if main and main.time_s else None,
        tokens_per_s=main.tokens_per_s if main else None,
    )


def _read_bytes(plan: Plan) -> int:
    return plan.main_phase.weight_read_bytes_per_pass if plan.main_phase else 0


def parts(model: Model) -> dict[str, tuple[Part, int]]:
    """Return what can be kept apart, and how many parameters it has: components, then tensor classes.

    A selector names both, so that a class called like a component (`head`) is counted with it.
    """
    stored = [(t.component, t.tensor.kind, t.tensor.elements) for t in model.tensors() if t.tensor.in_file]
    parts: dict[str, Part] = {c.name: "component" for c in model.components}
    for _, kind, _ in stored:
        parts.setdefault(kind, "class")
    counts = {name: sum(n for component, kind, n in stored if name in (component, kind)) for name in parts}
    return {name: (part, counts[name]) for name, part in parts.items() if counts[name]}
