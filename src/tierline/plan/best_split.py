"""The best way to split a model over a machine's devices, by planning every way there is."""

from collections.abc import Iterator
from dataclasses import replace

from tierline.cost.costing import Costing
from tierline.cost.split import Split
from tierline.errors import InputError
from tierline.machines.devices import several
from tierline.machines.machine import Machine
from tierline.models.description import Model
from tierline.models.workload import Workload
from tierline.plan.devices import Options
from tierline.plan.parallel import plan_parallel
from tierline.plan.plan import Plan

_MOST_WAYS = 200


def best_parallel(
    model: Model, machine: Machine, workload: Workload, costing: Costing, options: Options
) -> Plan:
    """Return the plan of the fastest split that fits, over all devices or fewer.

    Of those that fit, the one whose main phase is fastest, and of equals the one with fewer devices; where
    none fits, the fastest that streams, else the one that is short by the least. At most 200 are planned.
    Raises InputError where no split is possible.
    """
    devices = several(machine)
    found: list[Plan] = []
    refused: InputError | None = None
    for count, split in enumerate(splits(model, workload, len(devices))):
        if count == _MOST_WAYS:
            break
        try:
            found.append(plan_parallel(model, machine, workload, replace(costing, split=split), options))
        except InputError as error:
            refused = refused or error
    if not found:
        raise refused or InputError(f"{machine.name}: no split of {model.name} is possible")
    return max(found, key=_merit)


def splits(model: Model, workload: Workload, devices: int) -> Iterator[Split]:
    """Yield the splits that are worth planning: products of degrees that divide `devices`, fewest cuts first.

    Replicas only for as many sequences as there are, stages with one micro-batch and with as many as keep all
    of them busy.
    """
    routed = any(o.experts for c in model.components for x in c.layers for o in x.block.operations)
    degrees = [n for n in range(1, devices + 1) if devices % n == 0]
    yield Split()
    for tp in reversed(degrees):
        for pp in degrees:
            for ep in degrees if routed else [1]:
                for dp in (n for n in degrees if n * ep <= max(ep, workload.batch)):
                    if 1 < tp * pp * ep * dp <= devices and devices % (tp * pp * ep * dp) == 0:
                        split = Split(tp, pp, ep, dp)
                        yield split
                        sequences = -(-workload.batch // (dp * ep))
                        if pp > 1 and sequences >= pp:
                            yield replace(split, micro_batches=pp)


def _merit(plan: Plan) -> tuple[bool, bool, float, int, int]:
    main = plan.main_phase
    speed = 0.0
    if main is not None and main.time_s:
        speed = main.tokens_per_s or main.passes / main.time_s
    used = plan.costing.split.devices if plan.costing.split else 1
    return plan.fits, plan.strategy == "streamed", speed, -plan.short_bytes, -used
