"""The JSON of `--json`: base units, the unit in the key. A time that is not known is null."""

from collections.abc import Mapping, Sequence
from typing import Any

from tierline.cost.costing import Costing
from tierline.formats.precision import Precision
from tierline.models.description import Model
from tierline.models.workload import Workload
from tierline.plan.guesses import Guesses, free_rows
from tierline.plan.plan import PhasePlan, Plan, Residency
from tierline.plan.remedies import remedies
from tierline.plan.sensitivity import Kept
from tierline.report.quality import quality_json
from tierline.report.schema_parallel import parallel_json

Json = dict[str, Any]


def plan_json(plan: Plan, *, advised: bool = True) -> Json:
    """Return a plan as JSON-ready data; figures of a phase are totals over its passes.

    Remedies are plans of their own and take several times as long as all else: not `advised` leaves them out.
    """
    return {
        "model": plan.model.name,
        "machine": plan.machine.name,
        "runtime": plan.costing.runtime,
        "workload": workload_json(plan.workload),
        "precision": precision_json(plan.costing),
        "fits": plan.fits,
        "strategy": plan.strategy,
        "short_bytes": plan.short_bytes,
        **({"remedies": list(remedies(plan))} if advised else {}),
        "footprint": _footprint_json(plan),
        "parameters": parameters_json(plan.model),
        "tiers": [
            {
                "name": t.name,
                "capacity_bytes": t.capacity_bytes,
                "allowed_bytes": t.allowed_bytes,
                "used_bytes": t.used_bytes,
            }
            for t in plan.tiers
        ],
        "residency": _residency_json(plan.residency),
        "quality": quality_json(plan.costing.precision),
        "phases": [phase_json(phase) for phase in plan.phases],
        "time_to_first_token_s": plan.time_to_first_token_s,
        "actions_per_s": plan.actions_per_s,
        "free_rows": free_rows(plan),
        "notes": list(plan.notes),
        **({} if plan.parallel is None else parallel_json(plan.parallel)),
    }


def guesses_json(guesses: Guesses) -> Json:
    """Return what checking guesses in a pass takes, and from how many tokens a pass on it pays."""
    return {
        "draft_tokens": guesses.draft_tokens,
        "draft_bytes": guesses.draft_bytes,
        "draft_s": guesses.draft_s,
        "plain_pass_s": guesses.plain_pass_s,
        "pass_s": guesses.pass_s,
        "break_even_tokens_per_pass": guesses.break_even_tokens_per_pass,
        "pays": guesses.pays,
    }


def sensitivity_json(rows: Sequence[Kept]) -> list[Json]:
    """Return what keeping each part in another format costs, one object per part and format."""
    return [
        {
            row.part: row.selector,
            "format": row.format.name,
            "parameters": row.parameters,
            "weights_bytes": row.weights_bytes,
            "added_bytes": row.added_bytes,
            "added_read_bytes_per_pass": row.added_read_bytes,
            "fits": row.fits,
            "passes_per_s": row.passes_per_s,
            "tokens_per_s": row.tokens_per_s,
        }
        for row in rows
    ]


def workload_json(workload: Workload) -> Json:
    """Return what is asked of the model: counts."""
    return {
        "batch": workload.batch,
        "prompt_tokens": workload.prompt_tokens,
        "new": workload.new,
        "context": workload.context,
        "images": workload.images,
        "steps": workload.steps,
    }


def precision_json(costing: Costing) -> Json:
    """Return the names of the formats in use; weights `stored` keep what the checkpoint has."""
    precision = costing.precision
    return {
        "weights": weights_name(precision),
        "kv": precision.kv.name,
        "activations": precision.activations.name,
        "activation_policy": costing.activation_policy,
        "include": costing.include,
        "hoist_static": costing.hoist_static,
        "kv_block_tokens": costing.kv_block_tokens,
        "prefill_chunk": costing.prefill_chunk,
        "average_decode": costing.average_decode,
        "parallel": None if costing.split is None else str(costing.split),
        "keep": {selector: chosen.name for selector, chosen in precision.keep},
    }


def weights_name(precision: Precision) -> str:
    """Return the name of the weights' format, or `stored`."""
    return "stored" if precision.weights is None else precision.weights.name


def parameters_by_component(model: Model) -> Mapping[str, int]:
    """Return the elements of the tensors that the checkpoint holds, by component."""
    totals = {component.name: 0 for component in model.components}
    for placed in model.tensors():
        if placed.tensor.in_file:
            totals[placed.component] += placed.tensor.elements
    return totals


def _footprint_json(plan: Plan) -> Json:
    footprint = plan.footprint
    return {
        "weights_bytes": footprint.weights_bytes,
        "tied_weights_bytes": footprint.tied_weights_bytes,
        "kv_cache_bytes": footprint.kv_cache_bytes,
        "activation_bytes": footprint.activation_bytes,
        "program_bytes": footprint.program_bytes,
        "runtime_bytes": footprint.runtime_bytes,
        "total_bytes": footprint.total_bytes,
        "by_component_bytes": dict(footprint.by_component_bytes),
    }


def parameters_json(model: Model) -> Json:
    """Return the number of parameters: as stored, tied ones once, and by component."""
    by_component = dict(parameters_by_component(model))
    return {
        "total": sum(by_component.values()),
        "tied_total": model.tied_parameters,
        "by_component": by_component,
    }


def _residency_json(residency: Residency) -> Json:
    return {
        "pinned_bytes": residency.pinned_bytes,
        "streamed_bytes": residency.streamed_bytes,
        "staging_bytes": residency.placement.staging_bytes,
        "slots": residency.placement.slots,
        "link": residency.link,
        "route": list(residency.route),
        "home": residency.home,
    }


def phase_json(phase: PhasePlan) -> Json:
    """Return a phase: totals over its passes."""
    return {
        "name": phase.name,
        "passes": phase.passes,
        "tokens_per_pass": phase.tokens,
        "context": phase.context,
        "weight_read_bytes": phase.weight_read_bytes,
        "weight_read_bytes_per_pass": phase.weight_read_bytes_per_pass,
        "kv_read_bytes": phase.kv_read_bytes,
        "kv_write_bytes": phase.kv_write_bytes,
        "activation_traffic_bytes": phase.activation_traffic_bytes,
        "flop": phase.flop,
        "compute_s": phase.compute_s,
        "time_s": phase.time_s,
        "bound": phase.bound,
        "tokens_per_s": phase.tokens_per_s,
        "rate_kind": phase.rate_kind,
        "links": [
            {
                "name": use.name,
                "traffic_bytes": use.traffic_bytes,
                "time_s": use.time_s,
                "rate_kind": use.rate_kind,
            }
            for use in phase.links
        ],
    }
