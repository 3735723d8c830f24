"""SmolVLA's traffic to the byte, against figures derived by hand from its tensors.

One camera, 10 steps, int8 everywhere, layer by layer. The shapes are those of the published checkpoint:
12 vision layers of 768 x 3072 on 1,024 patches, a connector 12,288 -> 960 on 64 rows, 16 text layers of
960 x 2560 on 113 tokens, 16 expert layers of 720 x 2048 on 50 actions.
"""

import pytest

from tierline.cost.costing import Costing, Scope
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.plan import PhasePlan, Plan

VISION_WEIGHTS, CONNECTOR = 86_433_024, 12_288 * 960
VISION_IO, PIXELS, CONNECTOR_IO = 12 * 2 * 1024 * 768, 3 * 512 * 512, 64 * (12_288 + 960)
TEXT_WEIGHTS = 48 * 960 + 31_680 + 157_286_400 + 30_720
TEXT_IO, KV = 16 * 2 * 113 * 960, 16 * 2 * 113 * 320
STATIC, STEP_WEIGHTS, STEP_IO = 8 * 2 * 320 * 320, 96_583_680 + 23_760 + 1_603_472, 16 * 2 * 50 * 720


def planned(*, hoist: bool = True, include: Scope = "all") -> Plan:
    precision = Precision.of(weights="int8", kv="int8", activations="int8")
    costing = Costing(precision, "layer-io", hoist_static=hoist, include=include)
    return plan_with(
        open_model("smolvla"), load_machine("alveo-u280"), Workload.of(images=1, steps=10), costing
    )


def off_chip_bytes(phase: PhasePlan) -> int:
    moved = phase.weight_read_bytes + phase.kv_read_bytes + phase.kv_write_bytes
    return moved + phase.activation_traffic_bytes


def test_every_part_of_every_phase() -> None:
    vision, prefill, denoise = planned().phases
    assert (vision.weight_read_bytes, vision.activation_traffic_bytes) == (
        VISION_WEIGHTS + CONNECTOR,
        VISION_IO + PIXELS + CONNECTOR_IO,
    )
    assert (prefill.weight_read_bytes, prefill.activation_traffic_bytes) == (TEXT_WEIGHTS, TEXT_IO)
    assert (prefill.kv_read_bytes, prefill.kv_write_bytes) == (0, KV)
    assert (denoise.weight_read_bytes_per_pass, denoise.static_weight_read_bytes) == (STEP_WEIGHTS, STATIC)
    assert denoise.activation_traffic_bytes == 10 * STEP_IO
    assert (denoise.kv_read_bytes, denoise.kv_write_bytes) == (10 * KV, 0)


@pytest.mark.parametrize(
    ("hoist", "include", "expected_bytes"),
    [
        (True, "all", 1_287_600_256),
        (False, "all", 1_302_345_856),
        (True, "layer-matrices", 1_243_561_984),
    ],
)
def test_bytes_off_chip(hoist: bool, include: Scope, expected_bytes: int) -> None:
    plan = planned(hoist=hoist, include=include)
    assert sum(off_chip_bytes(phase) for phase in plan.phases) == expected_bytes
    assert sum(use.traffic_bytes for phase in plan.phases for use in phase.links) == expected_bytes


def test_actions_come_after_all_three_phases() -> None:
    plan = planned()
    total_s = sum(phase.time_s or 0.0 for phase in plan.phases)
    assert plan.time_to_first_token_s == pytest.approx(total_s)
    assert plan.actions_per_s == pytest.approx(50 / total_s)
