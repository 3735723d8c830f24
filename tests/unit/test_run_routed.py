"""What experts are expected to take: the formula by hand, and the same in virtual time."""

from pathlib import Path

import pytest

from tierline.compare.forecast import predict
from tierline.compare.passes import Workload
from tierline.models.stored import StoredTensor
from tierline.place.placement import Unit, place
from tierline.run.experts.expected import Routed, RoutedLayer
from tierline.run.needs import Needs
from tierline.run.predict import Prediction
from tierline.run.tiles import whole
from tierline.run.weights import WeightPlan

# Three layers; of the last two, 11 of 31 and 13 of 37 bytes are guessed. All else computes 19 s, 3/5 of it
# between layers; the experts 7 s, the last of each layer 2 s together.
LAYERS = (
    RoutedLayer("a", 1.0, 29.0, 0.0, 2.0),
    RoutedLayer("b", 1.0, 31.0, 11.0, 2.0),
    RoutedLayer("c", 1.0, 37.0, 13.0, 3.0),
)
ROUTED = Routed(LAYERS, last_s=2.0, between_fraction=0.6, guess_bytes=26)


def resident_plan(tiles: int) -> WeightPlan:
    """Return a plan of `tiles` pinned tiles."""
    tensors = [StoredTensor(f"t{i}", "bf16", (1, 8), Path("x"), 16 * i, 16) for i in range(tiles)]
    placement = place([Unit(whole(t).name, 16) for t in tensors], 10**6, slots=3)
    assert placement is not None
    return WeightPlan(placement, tuple(map(whole, tensors)), Needs(0, 0, 0), (), 0)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (2.0, 19 + 2 + (97 - 0.6 * 19 * 2) / 2),  # guesses are read as far as compute lies between layers
        (5.0, 19 + 2 + (97 - 24) / 5),  # all of them are read beside it
    ],
)
def test_reads_wait_for_a_router_except_what_was_guessed(rate: float, seconds: float) -> None:
    assert ROUTED.step_s(19.0, rate) == pytest.approx(seconds)
    prediction = Prediction(26.0, 97, rate, 0, routed=ROUTED)
    assert prediction.routed_s == pytest.approx(seconds)
    assert prediction.step_s == pytest.approx(max(26.0, 97 / rate, seconds))
    assert prediction.unrouted_s == 19 + 2


def test_nothing_read_takes_nothing_more() -> None:
    resident = Routed((RoutedLayer("a", 0.0, 0.0, 0.0, 7.0),), 0.0, 0.0, 0)
    assert Prediction(26.0, 0, None, 0, routed=resident).step_s == 26.0
    assert resident.step_s(19.0, 5.0) == 0.0


def test_virtual_time_reads_the_same_bytes_and_agrees_with_the_formula() -> None:
    rate, decode = 5.0, 40
    prediction = Prediction(26.0, 97, rate, 7919, routed=ROUTED)
    work = Workload(3, 1, decode, 26.0, 26.0, prefill_routed=ROUTED, decode_routed=ROUTED)
    found = predict(resident_plan(30), work, prediction)
    assert found.simulated.read_bytes_per_token == 97
    assert found.planned.tokens_per_s is not None
    assert found.simulated.tokens_per_s == pytest.approx(found.planned.tokens_per_s, rel=0.1)
    # Without guesses, reads begin when all else has ended, beside all experts but the last of each layer.
    layers = tuple(RoutedLayer(x.path, 1.0, x.read_bytes, 0.0, x.compute_s) for x in LAYERS)
    blind = Routed(layers, 2.0, 0.6, 0)
    serial = predict(
        resident_plan(30),
        Workload(3, 1, decode, 26.0, 26.0, prefill_routed=blind, decode_routed=blind),
        Prediction(26.0, 97, rate, 7919, routed=blind),
    )
    assert serial.simulated.tokens_per_s == pytest.approx(1 / (19 + 2 + 97 / 5))
    assert serial.planned.tokens_per_s == pytest.approx(1 / (19 + 2 + 97 / 5))
