"""What to change: each remedy is another plan that was built, with the figures it reached."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from tierline.formats.parse import parse_format, parse_weights
from tierline.formats.precision import Precision
from tierline.machines.machine import Machine
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.plan.units import layer_of
from tierline.units import format_bytes

# From wide to narrow; a remedy goes no lower than these.
_NARROWER = ("bf16", "mxfp8", "mxfp4")
_LARGER_BATCH = 8
_WORTHWHILE = 1.02  # a remedy for speed that gains less is not worth a line
_MOST = 6


def remedies(plan: Plan) -> tuple[str, ...]:
    """Return what would make the model fit, or where it fits, what would make it faster, at most six lines.

    Every figure is that of a plan built with the change; at most ten plans are built.
    """
    found = _faster(plan) if plan.fits else _fitting(plan)
    return tuple(islice(found, _MOST))


def _fitting(plan: Plan) -> Iterator[str]:
    if plan.strategy == "streamed":
        yield _streaming(plan)
    if plan.resident_bytes is not None:
        yield from _line(rebuild(plan, resident_bytes=None), "without a cap on resident bytes", fitting=True)
    weights = [(name, _with_weights(plan, name)) for name in _narrower(_weight_bits(plan))]
    weights = [(n, p) for n, p in weights if p.footprint.weights_bytes < plan.footprint.weights_bytes]
    fitting = [(name, other) for name, other in weights if other.fits]
    for name, other in fitting[:1] or weights[-1:]:
        yield from _line(other, f"use --weights {name}", fitting=False)
    for name in _narrower(_kv_bits(plan))[:1]:
        yield from _line(_with_kv(plan, name), f"use --kv {name}", fitting=plan.strategy == "streamed")
    shorter = _shorter_context(plan)
    if shorter is not None:
        yield from _line(shorter, f"use --context {shorter.workload.context}", fitting=True)
    if plan.workload.batch > 1:
        one = rebuild(plan, workload=replace(plan.workload, batch=1))
        yield from _line(one, "use --batch 1", fitting=True)


def _faster(plan: Plan) -> Iterator[str]:
    changes = [
        *((f"use --weights {n}", _with_weights(plan, n)) for n in _narrower(_weight_bits(plan))),
        *((f"use --kv {n}", _with_kv(plan, n)) for n in _narrower(_kv_bits(plan))[:1]),
    ]
    main = plan.main_phase
    if main is not None and main.name == "decode" and plan.workload.batch < _LARGER_BATCH:
        larger = rebuild(plan, workload=replace(plan.workload, batch=_LARGER_BATCH))
        changes.append((f"use --batch {_LARGER_BATCH}", larger))
    before = speed(plan)
    for what, other in changes:
        after = speed(other)
        if other.fits and before and after and after > before * _WORTHWHILE:
            yield f"{what} ({_rate(other)})"


def rebuild(
    plan: Plan,
    *,
    machine: Machine | None = None,
    workload: Workload | None = None,
    precision: Precision | None = None,
    resident_bytes: int | None = -1,
) -> Plan:
    """Return the same plan with some of its inputs replaced (`resident_bytes` -1 keeps the cap)."""
    before = plan.costing.precision
    precision = precision or before
    same = (precision.weights, precision.keep) == (before.weights, before.keep)
    return plan_with(
        plan.model,
        machine or plan.machine,
        workload or plan.workload,
        replace(plan.costing, precision=precision),
        resident_bytes=plan.resident_bytes if resident_bytes == -1 else resident_bytes,
        program_bytes=plan.footprint.program_bytes,
        prefetch_depth=plan.prefetch_depth,
        weights=plan.weighed if same else None,
    )


def _with_weights(plan: Plan, name: str) -> Plan:
    return rebuild(plan, precision=replace(plan.costing.precision, weights=parse_weights(name)))


def _with_kv(plan: Plan, name: str) -> Plan:
    return rebuild(plan, precision=replace(plan.costing.precision, kv=parse_format(name)))


def _shorter_context(plan: Plan) -> Plan | None:
    """Return the plan with the longest context that should fit, or None where no context does.

    Cache and activations grow no faster than the context, so one division finds the candidate. It keeps the
    new tokens and cuts the prompt, of which the activations are: the error is on the safe side.
    """
    growing_bytes = plan.footprint.kv_cache_bytes + plan.footprint.activation_bytes
    room = growing_bytes - plan.short_bytes
    if not growing_bytes or room <= 0:
        return None
    context = plan.workload.context * room // growing_bytes
    if context < 2:
        return None
    new = min(plan.workload.new, context // 2)
    return rebuild(plan, workload=replace(plan.workload, prompt_tokens=context - new, new=new))


def _line(plan: Plan, what: str, *, fitting: bool) -> Iterator[str]:
    """Yield the remedy if its plan fits, or if it need not fit (`fitting` false) but can run."""
    if plan.fits:
        rate = _rate(plan)
        yield f"{what} (fits, {rate})" if rate else f"{what} (fits)"
    elif not fitting and plan.strategy == "streamed":
        yield f"{what} (streams {format_bytes(plan.residency.streamed_bytes)}, {_rate(plan)})"


def _streaming(plan: Plan) -> str:
    residency = plan.residency
    units = (*residency.placement.streamed, *residency.spare_streamed)
    names = [x.name for c in plan.model.components for x in c.layers if x.block.tensors]
    streamed = {layer_of(unit.name, frozenset(names)) for unit in units}
    in_part = "" if {u.name for u in units} == streamed else " (some in part)"
    return f"stream {len(streamed)} of {len(names)} layers{in_part} over {residency.link} ({_rate(plan)})"


def _narrower(bits: float) -> list[str]:
    return [name for name in _NARROWER if float(parse_format(name).bits_per_element) < bits]


def _weight_bits(plan: Plan) -> float:
    return 8 * plan.footprint.weights_bytes / max(1, plan.model.parameters)


def _kv_bits(plan: Plan) -> float:
    return float(plan.costing.precision.kv.bits_per_element)


def speed(plan: Plan) -> float | None:
    """Return tokens per second of the main phase, or its passes where it makes none; None where not known."""
    main = plan.main_phase
    if main is None or not main.time_s:
        return None
    return main.tokens_per_s or main.passes / main.time_s


def speed_unit(plan: Plan) -> str:
    """Return what `speed` counts."""
    main = plan.main_phase
    return "tok/s" if main is not None and main.tokens_per_s else "passes/s"


def _rate(plan: Plan) -> str:
    found = speed(plan)
    if found is None:
        return "speed unknown"
    unit = speed_unit(plan)
    return f"{found:.3g} {unit}" if found < 1 else f"{found:,.1f} {unit}"
