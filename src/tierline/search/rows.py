"""One row from one plan and, where a regime needs it, its simulation."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tierline.models.workload import Workload
from tierline.plan.plan import Plan
from tierline.search.case import Case
from tierline.search.table import Kind, Sheet
from tierline.sim.simulate import SimResult, simulate

PLANNED: Mapping[str, Kind] = MappingProxyType(
    {
        "fits": "bool",
        "strategy": "text",
        "weights_bytes": "int",
        "kv_cache_bytes": "int",
        "activation_bytes": "int",
        "total_bytes": "int",
        "short_bytes": "int",
        "pinned_bytes": "int",
        "streamed_bytes": "int",
        "link": "text",
        "phase": "text",
        "pass_s": "float",
        "tokens_per_s": "float",
        "bound": "text",
        "rate_kind": "text",
        "time_to_first_token_s": "float",
        "actions_per_s": "float",
    }
)
SIMULATED: Mapping[str, Kind] = MappingProxyType(
    {
        "simulated_strategy": "text",
        "simulated_policy": "text",
        "simulated_pass_s": "float",
        "simulated_tokens_per_s": "float",
        "simulated_bound": "text",
        "overlap_fraction": "float",
        "stall_s_per_pass": "float",
        "evictions": "int",
        "reloads": "int",
        "energy_j": "float",
    }
)


def put_row(case: Case, workload: Workload, row: int, sheet: Sheet) -> None:
    """Put the plan of one workload, and its simulation if the case asks for one."""
    rows = np.array([row])
    plan = case.plan(workload)
    for name, value in planned_values(plan).items():
        sheet.put(name, rows, value)
    if case.simulated:
        for name, value in simulated_values(simulate(plan, case.options)).items():
            sheet.put(name, rows, value)


def planned_values(plan: Plan) -> dict[str, object]:
    """Return the columns of a plan; None is not known."""
    main = plan.main_phase
    return {
        "fits": plan.fits,
        "strategy": plan.strategy,
        "weights_bytes": plan.footprint.weights_bytes,
        "kv_cache_bytes": plan.footprint.kv_cache_bytes,
        "activation_bytes": plan.footprint.activation_bytes,
        "total_bytes": plan.footprint.total_bytes,
        "short_bytes": plan.short_bytes,
        "pinned_bytes": plan.residency.pinned_bytes,
        "streamed_bytes": plan.residency.streamed_bytes,
        "link": plan.residency.link,
        "phase": main.name if main else None,
        "pass_s": main.time_s / main.passes if main and main.time_s is not None else None,
        "tokens_per_s": main.tokens_per_s if main else None,
        "bound": main.bound if main else None,
        "rate_kind": main.rate_kind if main else None,
        "time_to_first_token_s": plan.time_to_first_token_s,
        "actions_per_s": plan.actions_per_s,
        **{f"{phase.name}_s": phase.time_s for phase in plan.phases},
    }


def simulated_values(result: SimResult) -> dict[str, object]:
    """Return the columns of a simulation, those of its main phase; None is not known."""
    main = result.main
    return {
        "simulated_strategy": result.strategy,
        "simulated_policy": result.policy,
        "simulated_pass_s": main.pass_times_s[-1],
        "simulated_tokens_per_s": result.tokens_per_s_steady,
        "simulated_bound": main.bound,
        "overlap_fraction": main.overlap_fraction,
        "stall_s_per_pass": main.stall_s_per_pass,
        "evictions": result.schedule.counts.evictions,
        "reloads": result.schedule.counts.reloads,
        "energy_j": result.energy_j,
    }
