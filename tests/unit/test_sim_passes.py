"""`--passes N`: the last passes of a phase alone take as long as they do in the whole run."""

import pytest

from tierline.plan.build import plan_with
from tierline.scenario import scenario
from tierline.sim.options import Options, Speculation
from tierline.sim.simulate import simulate


@pytest.mark.parametrize("strategy", ["resident", "host-stream"])
@pytest.mark.parametrize("passes", [1, 3, 7, 50])
def test_the_last_passes_are_those_of_the_whole_run(strategy: str, passes: int) -> None:
    asked = scenario("smollm2-135m", "nexys-video", context=97, new=11, prefill_chunk=20)
    plan = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    options = {"strategy": strategy, "warm": strategy == "resident", "wrap": False}
    whole = simulate(plan, Options(**options))  # type: ignore[arg-type]
    last = simulate(plan, Options(**options, passes=passes))  # type: ignore[arg-type]
    for few, all_of_it in zip(last.phases, whole.phases, strict=True):
        count = min(passes, len(all_of_it.pass_times_s))
        assert few.name == all_of_it.name
        assert few.pass_times_s == pytest.approx(all_of_it.pass_times_s[-count:])
    contexts = [p.demand.context for p in last.schedule.passes if p.demand.phase == "decode"]
    assert contexts == list(range(97 - min(passes, 11) + 1, 98))


def test_speculative_passes_are_cut_too() -> None:
    asked = scenario("smollm2-135m", "nexys-video", context=97, new=11)
    plan = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    guesses = Speculation(3, 0.5)
    whole = simulate(plan, Options(phases=("decode",), speculation=guesses))
    last = simulate(plan, Options(phases=("decode",), speculation=guesses, passes=2))
    assert len(whole.schedule.passes) > 2
    assert [p.demand for p in last.schedule.passes] == [p.demand for p in whole.schedule.passes[-2:]]
