"""How fast plans are built and points costed, in one process on one core: `python benchmarks/bench_plan.py`.

Every plan differs from the one before in its context, its batch and its weights' format, and nothing is kept
from one to the next. A point is a workload of the same model: both phases, the cache and the activations.
Rates are per second of processor time, so that what else runs on the machine does not count; plans are also
given by the clock on the wall, which on a quiet machine is the same.
"""

from collections.abc import Callable
from time import perf_counter, process_time

import numpy as np

from tierline.cost.amount import Amount
from tierline.cost.costing import Costing
from tierline.cost.points import cost_points, resident_seconds
from tierline.cost.weights import weigh
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import build_plan

MODEL, MACHINE = "llama-3.1-70b", "h100-sxm"
PLANS, POINTS, REPEATS = 300, 20_000, 5
BYTES_PER_S, FLOP_PER_S = 3.35e12, 989e12


def plans_per_s(clock: Callable[[], float] = process_time) -> float:
    """Return the plans built per second of `clock`, of models that stream and models that fit."""
    model, machine = open_model(MODEL), load_machine(MACHINE)
    precisions = [Precision.of(weights=name) for name in ("bf16", "mxfp8", "mxfp4", "int4:group=64")]
    started = clock()
    for i in range(PLANS):
        build_plan(model, machine, Workload.of(batch=1 + i % 7, context=1024 + i), precisions[i % 4])
    return PLANS / (clock() - started)


def points_per_s() -> float:
    """Return the points costed per second: footprint, both phases and their times."""
    model = open_model(MODEL)
    costing = Costing(Precision.of(weights="mxfp4"))
    prompts, new = 1 + np.arange(POINTS), 128
    varied = {
        "batch": 1 + np.arange(POINTS) % 64,
        "prompt_tokens": prompts,
        "new": new,
        "context": prompts + new,
    }
    workloads: dict[str, Amount] = {**Workload.of().values(), **varied}
    started = process_time()
    for _ in range(REPEATS):
        found = cost_points(model, weigh(model, costing.precision), workloads, costing)
        for cost in found.phases.values():
            resident_seconds(cost, BYTES_PER_S, FLOP_PER_S)
    return REPEATS * POINTS / (process_time() - started)


def main() -> None:
    """Print both rates, each the best of three."""
    print(f"plans of {MODEL} on {MACHINE}: {max(plans_per_s() for _ in range(3)):,.0f}/s of processor time")
    print(f"the same by the clock: {max(plans_per_s(perf_counter) for _ in range(3)):,.0f}/s")
    print(f"points of {MODEL}: {max(points_per_s() for _ in range(3)):,.0f}/s")


if __name__ == "__main__":
    main()
