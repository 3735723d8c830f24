"""Building a Plan from a model, a machine, a workload and a precision: pure, fast enough to search over."""

from collections.abc import Iterator

from tierline.cost.activations import ActivationPolicy
from tierline.cost.amount import Values
from tierline.cost.costing import Costing
from tierline.cost.footprint import Footprint, kv_cache_bytes, repacked_bytes, working_set_bytes
from tierline.cost.logits import with_all_logits
from tierline.cost.weights import ModelWeights, weigh
from tierline.formats.precision import Precision
from tierline.machines.machine import Machine, Rate
from tierline.models.description import Model
from tierline.models.workload import Workload
from tierline.plan.devices import Options
from tierline.plan.lodging import Lodging, main_phase
from tierline.plan.phases import Setting, pinned_share, plan_phase
from tierline.plan.plan import PhasePlan, Plan, Residency, TierUse
from tierline.plan.residency import PREFETCH_DEPTH, allowed_bytes
from tierline.units import format_bytes

# Formats that a unit without a rate of its own for narrower numbers computes them in, narrowest first.
_COMPUTED_IN = ("fp8", "fp16", "bf16", "tf32", "fp32")


def build_plan(
    model: Model,
    machine: Machine,
    workload: Workload,
    precision: Precision,
    *,
    activation_policy: ActivationPolicy = "fused",
    resident_bytes: int | None = None,
    program_bytes: int = 0,
    hoist_static: bool = True,
    kv_block_tokens: int = 1,
    prefetch_depth: int = PREFETCH_DEPTH,
    unit_bytes: int | None = None,
) -> Plan:
    """Return `plan_with` for the costing choices that are asked for most."""
    return plan_with(
        model,
        machine,
        workload,
        Costing(precision, activation_policy, hoist_static, kv_block_tokens),
        resident_bytes=resident_bytes,
        program_bytes=program_bytes,
        prefetch_depth=prefetch_depth,
        unit_bytes=unit_bytes,
    )


def plan_with(
    model: Model,
    machine: Machine,
    workload: Workload,
    costing: Costing,
    *,
    resident_bytes: int | None = None,
    program_bytes: int = 0,
    prefetch_depth: int = PREFETCH_DEPTH,
    unit_bytes: int | None = None,
    weights: ModelWeights | None = None,
) -> Plan:
    """Return where every byte lives, what crosses each link per phase, and how fast it can go at best.

    `resident_bytes` is the most weight bytes held in the fast tier at once, staging slots included (None: all
    that the rest leaves). `program_bytes` are instructions kept there. Weights are pinned and streamed by the
    layer, or by tiles of at most `unit_bytes`; where two layers are too much to stage, by tiles that use an
    eighth of the room. Where `costing` has a split, every device of the machine is planned so, together with
    what they exchange. `weights` are the model's under this precision, for whoever has them already. Raises
    InputError for a `keep` selector that the model has not.
    """
    if costing.split is not None:
        options = Options(resident_bytes, program_bytes, prefetch_depth, unit_bytes)
        return _plan_split(model, machine, workload, costing, options)
    precision = costing.precision
    if costing.all_logits:
        model = with_all_logits(model)
    if precision.keep:
        precision.check_selectors(selectors(model))
    weights = weights or weigh(model, precision)
    footprint = footprint_of(model, machine, weights, workload.values(), costing, program_bytes)
    main = main_phase(model, workload.values())
    allowed = allowed_bytes(machine.fast)
    room = max(0, allowed - footprint.others_bytes)
    capped = room if resident_bytes is None else min(room, resident_bytes)
    lodging = Lodging(model, machine, weights, main, prefetch_depth, unit_bytes)
    stored, residency = lodging.within(capped)
    rate, rate_note = compute_rate(machine, precision.activations.name)
    setting = Setting(
        machine, weights, pinned_share(stored, residency), residency, costing, rate, machine.fast.name
    )
    phases = tuple(p for p in (plan_phase(phase, workload, setting) for phase in model.phases) if p)
    return Plan(
        model=model,
        machine=machine,
        workload=workload,
        costing=costing,
        resident_bytes=resident_bytes,
        prefetch_depth=prefetch_depth,
        fits=residency.strategy == "resident" and footprint.total_bytes <= allowed,
        short_bytes=max(0, footprint.total_bytes - allowed),
        footprint=footprint,
        residency=residency,
        tiers=tuple(_tiers(machine, footprint, residency)),
        phases=phases,
        weighed=weights,
        notes=tuple(_notes(model, machine, workload, phases, rate_note)),
    )


def _plan_split(
    model: Model, machine: Machine, workload: Workload, costing: Costing, options: Options
) -> Plan:
    """Return the plan over several devices, of the split that is asked for or of the best one."""
    from tierline.plan.best_split import best_parallel  # which plans single devices with this module
    from tierline.plan.parallel import plan_parallel

    best = costing.split is not None and costing.split.auto
    return (best_parallel if best else plan_parallel)(model, machine, workload, costing, options)


def selectors(model: Model) -> frozenset[str]:
    """Return what `keep` may name: the model's components and its tensor classes."""
    blocks = {id(x.block): x.block for c in model.components for x in c.layers}.values()
    return frozenset(c.name for c in model.components) | {t.kind for block in blocks for t in block.tensors}


def compute_rate(machine: Machine, format_name: str) -> tuple[Rate | None, str]:
    """Return the fastest rate at which `machine` computes in this format, and a note where there is none.

    A unit without a rate for the format itself is taken to compute it in the next wider float that it has.
    """
    base = format_name.partition(":")[0].removeprefix("mx")
    start = _COMPUTED_IN.index(base) + 1 if base in _COMPUTED_IN else 1  # whole numbers: no fp8
    for name in (base, *_COMPUTED_IN[start:]):
        rates = [
            r for unit in machine.compute if (r := unit.flop_per_s.get(name)) and (r.sustained or r.peak)
        ]
        if rates:
            note = f"no {base} rate is known for {machine.name}: computed in {name}" if name != base else ""
            return max(rates, key=lambda rate: rate.value), note
    return None, (
        f"no {base} compute rate is known for {machine.name}: "
        "times are those of the links alone, the least possible"
    )


def footprint_of(
    model: Model,
    machine: Machine,
    weights: ModelWeights,
    values: Values,
    costing: Costing,
    program_bytes: int,
) -> Footprint:
    """Return what a workload of these `values` occupies: arrays of cache and activations where they are."""
    return Footprint(
        weights_bytes=weights.stored_bytes,
        tied_weights_bytes=weights.tied_bytes,
        kv_cache_bytes=kv_cache_bytes(model, weights, values, costing),
        activation_bytes=working_set_bytes(model, weights, values, costing),
        program_bytes=program_bytes,
        runtime_bytes=(int(machine.runtime_bytes.value) if machine.runtime_bytes else 0)
        + costing.process_bytes
        + (repacked_bytes(weights, costing.repacked) if costing.repacked else 0),
        by_component_bytes=weights.by_component_bytes(),
    )


def _tiers(machine: Machine, footprint: Footprint, residency: Residency) -> Iterator[TierUse]:
    for tier in machine.tiers:
        used = residency.streamed_bytes if tier.name == residency.home else 0
        if tier is machine.fast:
            used = footprint.others_bytes + residency.held_bytes
        yield TierUse(tier.name, int(tier.capacity_bytes.value), allowed_bytes(tier), used)


def _notes(
    model: Model, machine: Machine, workload: Workload, phases: tuple[PhasePlan, ...], rate_note: str
) -> Iterator[str]:
    yield from model.notes
    yield from (f"unknown: {what}" for what in model.unknown)
    yield from machine.notes
    if phases and rate_note:
        yield rate_note
    peaks = {use.name for phase in phases for use in phase.links if use.time_s and use.rate_kind == "peak"}
    yield from (f"{name}: no sustained rate is known, its peak is used" for name in sorted(peaks))
    if model.max_context is not None and workload.context > model.max_context:
        yield f"context {workload.context:,} is beyond the {model.max_context:,} that the model was made for"
    fast = machine.fast
    if allowed_bytes(fast) < fast.capacity_bytes.value:
        free, all_of_it = format_bytes(allowed_bytes(fast)), format_bytes(fast.capacity_bytes.value)
        yield f"{fast.name}: {free} of {all_of_it} are free"
