"""Boundaries against brute force over small spaces: plans built one by one by the way of the command line."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tierline.errors import InputError
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.report.find import answer_json, read_prices, sentence
from tierline.scenario import scenario
from tierline.search.axes import read_axes
from tierline.search.find import Answer, best, find
from tierline.search.goal import Goal

MODEL = "smollm2-135m"


def planned(on: str = "nexys-video", **options: Any) -> Plan:
    asked = scenario(MODEL, on, **options)
    return plan_with(asked.model, asked.machine, asked.workload, asked.costing)


def answers(goal: Goal, varied: str | None, on: str = "nexys-video", **options: str) -> list[Answer]:
    given = {"model": [MODEL], "on": [on], **{name: [text] for name, text in options.items()}}
    return list(find(read_axes(given), goal, varied))


def rate_of(plan: Plan) -> float:
    main = plan.main_phase
    assert main is not None
    assert main.tokens_per_s is not None
    return main.tokens_per_s


@pytest.mark.parametrize("weights", ["bf16", "int4:group=64"])
@pytest.mark.parametrize("target", [0.7, 13.0])
def test_the_least_link_is_the_least(weights: str, target: float) -> None:
    (answer,) = answers(Goal(tokens_per_s=target), "link", weights=weights)
    assert answer.value is not None
    assert answer.subject == "ddr3"
    for rate, meets in ((answer.value, True), (answer.value - 1, False)):
        at = planned(weights=weights, overrides=["ddr3.peak=100GB/s", f"ddr3.sustained={rate}B/s"])
        assert (rate_of(at) >= target) is meets


def test_no_link_helps_where_compute_is_too_slow() -> None:
    (answer,) = answers(Goal(tokens_per_s=1e9), "link", on="rtx-3090")
    assert answer.value is None
    assert not answer.meets
    assert "no rate of vram meets 1e+09 tok/s" in sentence(answer, Goal(tokens_per_s=1e9), {})


def brute(most: int, good: Callable[[int], bool]) -> int | None:
    return max((n for n in range(1, most + 1) if good(n)), default=None)


@pytest.mark.parametrize(
    ("varied", "capacity", "others"),
    [
        pytest.param("context", "262MiB", {}, marks=pytest.mark.slow),
        ("batch", "300MiB", {"context": "331", "new": "1"}),
        pytest.param("new", "262MiB", {"prompt_tokens": "53"}, marks=pytest.mark.slow),
    ],
)
def test_the_most_that_fits_is_the_most(varied: str, capacity: str, others: dict[str, str]) -> None:
    setting = f"ddr3.capacity={capacity}"
    (answer,) = answers(Goal(fits=True), varied, overrides=setting, **others)
    options: dict[str, Any] = {name: int(text) for name, text in others.items()}

    def good(n: int) -> bool:
        try:
            return planned(overrides=[setting], **{**options, varied: n}).fits
        except InputError:
            return False

    assert answer.value == brute(120 if varied == "batch" else 250, good)
    assert answer.value is not None
    assert not good(answer.value + 1)


def test_the_most_context_at_a_rate_is_the_most() -> None:
    goal = Goal(tokens_per_s=3.69)
    (answer,) = answers(goal, "context")
    assert answer.value == brute(290, lambda n: rate_of(planned(context=n)) >= 3.69)
    assert answer.method == "scan"


def test_the_best_batch_under_a_latency_is_the_best() -> None:
    goal = Goal(pass_s=0.4)
    (answer,) = answers(goal, "batch", context="512")
    rates = {}
    for n in range(1, 65):
        plan = planned(batch=n, context=512)
        main = plan.main_phase
        assert main is not None
        if main.time_s is not None and main.time_s / main.passes <= 0.4:
            rates[n] = rate_of(plan)
    assert max(rates) < 64
    assert answer.value == max(rates, key=lambda n: (rates[n], n))


def test_the_least_memory_is_the_least_to_the_byte() -> None:
    (answer,) = answers(Goal(fits=True), "memory")
    assert answer.value == planned().footprint.total_bytes
    goal = Goal(tokens_per_s=0.5)
    (slower,) = answers(goal, "memory")
    assert slower.value is not None
    assert slower.value < answer.value
    assert slower.method == "scan"
    for capacity, meets in ((slower.value, True), (slower.value - 1, False)):
        assert (rate_of(planned(overrides=[f"ddr3.capacity={capacity}B"])) >= 0.5) is meets
    others = planned().footprint.others_bytes
    for capacity in range(others + 10**5, slower.value, 19_997_001):
        plan = planned(overrides=[f"ddr3.capacity={capacity}B"])
        assert plan.strategy == "impossible" or rate_of(plan) < 0.5


def test_every_combination_is_held_against_the_goal_and_the_cheapest_is_first() -> None:
    goal = Goal(tokens_per_s=10)
    found = answers(goal, None, on="nexys-video,kria-kv260,zcu102,nope", weights="bf16,mxfp4")
    for answer in found:
        on, weights = answer.given["on"], answer.given["weights"]
        if on == "nope":
            assert "no machine is called" in answer.reason
        else:
            assert answer.meets is (rate_of(planned(on, weights=weights)) >= 10)
    prices = read_prices(["kria-kv260=3", "zcu102=7", "nexys-video=1"])
    cheapest = best(found, prices)
    assert cheapest is not None
    met = {a.given["on"] for a in found if a.meets}
    assert prices[cheapest.given["on"]] == min(prices[name] for name in met)
    assert json.loads(json.dumps([answer_json(a, goal, prices) for a in found]))


def test_a_machine_file_may_say_its_price(tmp_path: Any) -> None:
    from tierline.machines.load import load_machine

    path = tmp_path / "board.toml"
    number = '{ value = "1GiB", kind = "assumed", source = "here" }'
    path.write_text(
        f'price = {{ value = 479, kind = "assumed", source = "here" }}\n[tiers.ddr]\ncapacity = {number}\n'
    )
    price = load_machine(str(path)).price
    assert price is not None
    assert price.value == 479


@pytest.mark.parametrize("target", ["10", "tok/s", "-1tok/s", "0tok/s", "1e99tok/s", "nantok/s"])
def test_goals_that_are_none(target: str) -> None:
    with pytest.raises(InputError):
        Goal.of(target, None, None, fits=False)
    with pytest.raises(InputError):
        Goal.of(None, None, None, fits=False)


@pytest.mark.parametrize("name", ["vram", "peer"])
def test_a_link_of_several_devices_is_varied_on_each(name: str) -> None:
    given = {"model": [MODEL], "on": ["rtx-3090-x2"], "parallel": ["pp=2"]}
    (answer,) = find(read_axes(given), Goal(tokens_per_s=2000.0), "link", link=name)
    assert answer.value is not None
    for rate, meets in ((answer.value, True), (answer.value - 1, False)):
        at = planned("rtx-3090-x2", parallel="pp=2", overrides=[f"{name}.sustained={rate}B/s"])
        assert (rate_of(at) >= 2000.0) is meets


def test_the_most_batch_of_several_devices_is_the_most_and_their_memory_the_least() -> None:
    given = {"model": [MODEL], "on": ["rtx-3090-x2"], "parallel": ["pp=2"], "context": ["8192"]}
    (most,) = find(read_axes(given), Goal(fits=True), "batch")
    (least,) = find(read_axes({**given, "batch": ["7"]}), Goal(fits=True), "memory")
    assert most.value is not None
    assert least.value is not None

    def fits(batch: int, *overrides: str) -> bool:
        asked = {"parallel": "pp=2", "context": 8192, "batch": batch, "overrides": overrides}
        return planned("rtx-3090-x2", **asked).fits

    assert (fits(most.value), fits(most.value + 1)) == (True, False)
    capacity = least.value
    assert fits(7, f"vram.capacity={capacity}B")
    assert not fits(7, f"vram.capacity={capacity - 1}B")


def test_what_would_take_too_many_plans_of_several_devices_is_refused() -> None:
    (answer,) = answers(Goal(tokens_per_s=3.0), "context", on="rtx-3090-x2", parallel="tp=3")
    assert "planned one by one" in answer.reason
