"""The pipeline's formulas against the schedule carried out, and the imbalance of experts against routing."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.cost.bubble import bubble_fraction, in_flight, pipeline_s, round_s
from tierline.cost.imbalance import expert_ranges, given_imbalance, uniform_imbalance
from tierline.errors import InputError
from tierline.models.description import Experts

TIMES = st.lists(st.fractions(Fraction(1, 97), 13), min_size=1, max_size=7)


@given(stage_s=TIMES, micro=st.integers(1, 11))
def test_a_pipeline_takes_what_its_schedule_takes(stage_s: list[Fraction], micro: int) -> None:
    free = [Fraction(0)] * len(stage_s)
    done = Fraction(0)
    for _ in range(micro):
        ready = Fraction(0)
        for i, seconds in enumerate(stage_s):
            ready = free[i] = max(ready, free[i]) + seconds
        done = ready
    assert pipeline_s(stage_s, micro) == done


@given(stages=st.integers(1, 9), micro=st.integers(1, 17), each=st.fractions(Fraction(1, 97), 13))
def test_the_bubble_of_equal_stages_is_gpipes(stages: int, micro: int, each: Fraction) -> None:
    total = pipeline_s([each] * stages, micro)
    idle = Fraction(total - micro * each, total)
    assert idle == Fraction(stages - 1, micro + stages - 1)
    assert bubble_fraction(stages, micro) == pytest.approx(float(idle))
    # Megatron-LM gives it over the ideal time: (p - 1) / m
    assert Fraction(total - micro * each, micro * each) == Fraction(stages - 1, micro)


def test_interleaving_divides_the_bubble() -> None:
    assert bubble_fraction(7, 13, chunks=3) == pytest.approx(6 / (39 + 6))


@given(stage_s=TIMES, micro=st.integers(1, 11), rounds=st.integers(2, 9))
def test_tokens_that_come_back_wait_for_the_whole_round(
    stage_s: list[Fraction], micro: int, rounds: int
) -> None:
    free = [Fraction(0)] * len(stage_s)
    back = [Fraction(0)] * micro
    ends = []
    for _ in range(rounds):
        for batch in range(micro):
            ready = back[batch]
            for i, seconds in enumerate(stage_s):
                ready = free[i] = max(ready, free[i]) + seconds
            back[batch] = ready
        ends.append(back[-1])
    # after the first round the period is exact
    assert ends[-1] - ends[0] == (rounds - 1) * round_s(stage_s, micro)


def test_one_forward_one_backward_keeps_as_many_as_stages_follow() -> None:
    assert [in_flight(i, 4, 11) for i in range(4)] == [4, 3, 2, 1]
    assert [in_flight(i, 4, 2) for i in range(4)] == [2, 2, 2, 1]
    assert [in_flight(i, 4, 11, "gpipe") for i in range(4)] == [11] * 4


@pytest.mark.parametrize(
    ("count", "per_token", "rows", "devices"),
    [(8, 2, 1, 4), (8, 2, 13, 8), (64, 6, 31, 4), (60, 4, 97, 5), (64, 6, 2003, 8)],
)
def test_uniform_imbalance_is_that_of_routing_at_random(
    count: int, per_token: int, rows: int, devices: int
) -> None:
    chance = random.Random(count * rows)  # noqa: S311 - any routing will do
    ranges = expert_ranges(count, devices)
    home = {expert: d for d, held in enumerate(ranges) for expert in held}
    trials = 60 if rows > 1000 else 1500
    total = 0.0
    for _ in range(trials):
        loads = [0] * devices
        for _ in range(rows):
            for expert in chance.sample(range(count), per_token):
                loads[home[expert]] += 1
        total += max(loads) * devices / (rows * per_token)
    sampled = total / trials
    predicted = uniform_imbalance(Experts(count, per_token), rows, devices)
    assert predicted == pytest.approx(sampled, rel=0.015)


def test_imbalance_goes_to_nothing_with_many_rows_and_one_device_has_none() -> None:
    experts = Experts(64, 6)
    assert uniform_imbalance(experts, 10**7, 8) == pytest.approx(1, abs=2e-3)
    assert uniform_imbalance(experts, 101, 1) == 1
    # a single visit: one device has it, the mean is an eighth
    assert uniform_imbalance(Experts(8, 1), 1, 8) == pytest.approx(8)
    # every expert visited by every row: no device has more than another
    assert uniform_imbalance(Experts(8, 8), 13, 4) == pytest.approx(1)


def test_given_imbalance_is_the_share_of_the_busiest_device() -> None:
    experts = Experts(6, 2)
    assert given_imbalance(experts, [1, 1, 1, 1, 1, 1], 3) == pytest.approx(1)
    # chances of visits 2 * share: 0.6 0.4 0.2 0.3 0.3 0.2; devices hold two each
    assert given_imbalance(experts, [3, 2, 1, 1.5, 1.5, 1], 3) == pytest.approx(1.0 * 3 / 2)
    with pytest.raises(InputError, match="want 6"):
        given_imbalance(experts, [1, 2], 3)


@given(count=st.integers(1, 97), devices=st.integers(1, 13))
def test_every_expert_has_one_home(count: int, devices: int) -> None:
    ranges = expert_ranges(count, devices)
    assert [e for held in ranges for e in held] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
