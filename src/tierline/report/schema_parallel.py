"""The JSON of a plan over several devices: base units, the unit in the key."""

from typing import Any

from tierline.cost.split import Split
from tierline.plan.devices import DevicePlan, Parallel, Ranks, Use
from tierline.plan.training_parallel import ParallelTraining

Json = dict[str, Any]


def parallel_json(parallel: Parallel) -> Json:
    """Return the split, every device, what they exchange and how the stages follow one another."""
    split = parallel.split
    return {
        "parallel": {
            **_degrees(split),
            "micro_batch": parallel.micro_batch,
            "layers": list(parallel.layers),
            "phases": [
                {
                    "name": phase.name,
                    "stage_s": list(phase.stage_s),
                    "exchange_s": list(phase.exchange_s),
                    "bubble_fraction": phase.bubble_fraction,
                }
                for phase in parallel.phases
            ],
        },
        "devices": [_device(device) for device in parallel.devices],
    }


def training_parallel_json(plan: ParallelTraining) -> Json:
    """Return a training step over several devices."""
    split = plan.split
    return {
        "model": plan.model.name,
        "machine": plan.machine.name,
        "training": {"method": plan.training.name, "checkpointing": plan.training.checkpointing},
        "parallel": {**_degrees(split), "zero": split.zero, "layers": list(plan.layers)},
        "workload": {"batch": plan.workload.batch, "prompt_tokens": plan.workload.prompt_tokens},
        "fits": plan.fits,
        "time_s": plan.time_s,
        "tokens_per_s": plan.tokens_per_s,
        "bubble_fraction": plan.bubble_fraction,
        "devices": [
            {
                "name": d.name,
                "ranks": _ranks(d.ranks),
                "fits": d.fits,
                "weights_bytes": d.held.weights_bytes,
                "master_bytes": d.held.master_bytes,
                "gradient_bytes": d.held.gradient_bytes,
                "optimizer_bytes": d.held.optimizer_bytes,
                "activation_bytes": d.activation_bytes,
                "micro_batches_in_flight": d.in_flight,
                "runtime_bytes": d.step.runtime_bytes,
                "total_bytes": d.total_bytes,
                "allowed_bytes": d.step.allowed_bytes,
                "micro_batch_s": d.micro_s,
                "exchange_s": d.exchange_s,
                "reduce_s": d.reduce_s,
                "update_s": d.update_s,
            }
            for d in plan.devices
        ],
        "notes": list(plan.notes),
    }


def _degrees(split: Split) -> Json:
    return {
        "tp": split.tp,
        "pp": split.pp,
        "ep": split.ep,
        "dp": split.dp,
        "micro_batches": split.micro_batches,
    }


def _ranks(ranks: Ranks) -> Json:
    return {"tp": ranks.tp, "pp": ranks.pp, "ep": ranks.ep, "dp": ranks.dp}


def _device(device: DevicePlan) -> Json:
    footprint, fast = device.plan.footprint, device.plan.tiers[0]
    return {
        "name": device.name,
        "ranks": _ranks(device.ranks),
        "fits": device.plan.fits,
        "strategy": device.plan.strategy,
        "weights_bytes": footprint.weights_bytes,
        "kv_cache_bytes": footprint.kv_cache_bytes,
        "activation_bytes": footprint.activation_bytes,
        "runtime_bytes": footprint.runtime_bytes,
        "total_bytes": footprint.total_bytes,
        "allowed_bytes": fast.allowed_bytes,
        "links": [
            {"name": x.name, "traffic_bytes": x.traffic_bytes, "time_s": x.time_s, "rate_kind": x.rate_kind}
            for x in device.links
        ],
        "collectives": [_use(use) for use in device.uses],
        "expert_compute_imbalance": dict(device.imbalance),
    }


def _use(use: Use) -> Json:
    made = use.collective
    return {
        "phase": use.phase,
        "operation": use.operation,
        "kind": made.kind,
        "algorithm": made.algorithm,
        "group": use.group,
        "devices": made.devices,
        "link": use.link,
        "count": use.count,
        "payload_bytes": made.payload_bytes,
        "rounds": made.rounds,
        "sent_bytes": use.sent_bytes,
        "time_s": use.time_s,
    }
