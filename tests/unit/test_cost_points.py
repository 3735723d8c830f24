"""Points costed as arrays against plans built one by one."""

import numpy as np
import pytest

from tierline.cost.costing import Costing
from tierline.cost.points import cost_points, resident_seconds
from tierline.cost.weights import weigh
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import compute_rate, plan_with


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b", "gemma-2-9b"])
def test_a_point_is_the_resident_plan_of_its_workload(name: str) -> None:
    model, machine = open_model(name), load_machine("mi300x")
    costing = Costing(Precision.of(weights="mxfp4"), kv_block_tokens=16)
    batches, prompts, news = np.array([1, 3, 17]), np.array([1021, 4099, 37]), np.array([7, 31, 101])
    values = {**Workload.of().values(), "batch": batches, "prompt_tokens": prompts, "new": news}
    values["context"] = prompts + news
    points = cost_points(model, weigh(model, costing.precision), values, costing)
    port, compute = machine.fast.rate, compute_rate(machine, "bf16")[0]
    assert port is not None
    assert compute is not None
    for i in range(3):
        work = Workload.of(batch=int(batches[i]), prompt_tokens=int(prompts[i]), new=int(news[i]))
        plan = plan_with(model, machine, work, costing)
        assert plan.fits
        runtime = plan.footprint.runtime_bytes
        assert points.total_bytes[i] == plan.footprint.total_bytes - runtime
        for phase in plan.phases:
            cost = points.phases[phase.name]
            times = resident_seconds(cost, port.value, compute.value, shared_memory=machine.shared_memory)
            assert np.broadcast_to(times, 3)[i] == pytest.approx(phase.time_s)
            assert np.broadcast_to(cost.weight_read_bytes, 3)[i] == phase.weight_read_bytes
