"""The JSON of a training step: the keys of a plan, with what training adds."""

from tierline.plan.training import TrainingPlan, training_remedies
from tierline.report.schema import Json, parameters_json, phase_json, precision_json, workload_json


def training_json(plan: TrainingPlan) -> Json:
    """Return a planned step as JSON-ready data in base units; its one phase is called `training`."""
    fast, held = plan.machine.fast, plan.footprint
    return {
        "model": plan.model.name,
        "machine": plan.machine.name,
        "runtime": plan.costing.runtime,
        "workload": workload_json(plan.workload),
        "precision": precision_json(plan.costing),
        "training": {
            "method": plan.training.name,
            "optimizer": plan.training.optimizer,
            "lora_rank": plan.training.rank,
            "checkpointing": plan.training.checkpointing,
            "trained_parameters": plan.trained_parameters,
            "forward_flop": plan.flop.forward,
            "backward_flop": plan.flop.backward,
            "recomputed_flop": plan.flop.recomputed,
            "kept_activation_bytes": plan.kept_bytes,
        },
        "fits": plan.fits,
        "strategy": "resident" if plan.fits else "impossible",
        "short_bytes": max(0, plan.total_bytes - plan.allowed_bytes),
        "remedies": list(training_remedies(plan)),
        "footprint": {
            "weights_bytes": held.weights_bytes,
            "master_bytes": held.master_bytes,
            "gradient_bytes": held.gradient_bytes,
            "optimizer_bytes": held.optimizer_bytes,
            "activation_bytes": plan.activation_bytes,
            "runtime_bytes": plan.runtime_bytes,
            "total_bytes": plan.total_bytes,
        },
        "parameters": parameters_json(plan.model),
        "tiers": [
            {
                "name": fast.name,
                "capacity_bytes": int(fast.capacity_bytes.value),
                "allowed_bytes": plan.allowed_bytes,
                "used_bytes": plan.total_bytes,
            }
        ],
        "phases": [phase_json(plan.phase)],
        "notes": list(plan.notes),
    }
