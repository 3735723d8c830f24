"""The JSON of a plan over several devices: base units, the unit in the key."""

from typing import Any

from tierline.plan.devices import DevicePlan, Parallel, Use

Json = dict[str, Any]


def parallel_json(parallel: Parallel) -> Json:
    """Return the split, every device, what they exchange and how the stages follow one another."""
    split = parallel.split
    return {
        "parallel": {
            "tp": split.tp,
            "pp": split.pp,
            "ep": split.ep,
            "dp": split.dp,
            "micro_batches": split.micro_batches,
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


def _device(device: DevicePlan) -> Json:
    footprint, fast = device.plan.footprint, device.plan.tiers[0]
    return {
        "name": device.name,
        "ranks": {"tp": device.ranks.tp, "pp": device.ranks.pp, "ep": device.ranks.ep, "dp": device.ranks.dp},
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
