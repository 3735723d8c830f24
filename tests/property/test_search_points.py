"""Rows costed as arrays against the plan of each row, figure by figure; and the capacity that is tracked."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline.cost.weights import weigh
from tierline.errors import TierlineError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload, filled
from tierline.plan.build import plan_with
from tierline.plan.lodging import Lodging, main_phase
from tierline.scenario import scenario
from tierline.search.axes import read_axes
from tierline.search.counts import is_valid
from tierline.search.evaluate import Evaluator
from tierline.search.options import COUNTS, read_bytes, read_value
from tierline.search.rows import planned_values
from tierline.search.tracked import Tracked

SPACES = {
    "dense, all regimes": {
        "model": ["llama-3.1-8b"],
        "on": ["rtx-3090"],
        "weights": ["bf16,mxfp8,mxfp4"],
        "context": ["1021:131072:x2"],
        "batch": ["1:64:+3"],
    },
    "several models that see and act": {
        "model": ["smolvlm2-256m,smolvla"],
        "on": ["nexys-video,apple-m2-max"],
        "weights": ["stored,mxfp8"],
        "context": ["7,1021,8191"],
        "batch": ["1,7"],
        "images": ["0,1,3"],
        "steps": ["0,10,17"],
    },
    "experts, windows, chunks": {
        "model": ["mixtral-8x7b,gemma-2-9b"],
        "on": ["rtx-4090"],
        "weights": ["mxfp4"],
        "context": ["1:9000:+1001"],
        "new": ["0,1,31"],
        "prefill_chunk": ["512,none"],
        "average_decode": ["true,false"],
    },
    "tiles, budgets, contradictions": {
        "model": ["llama-3.1-70b"],
        "on": ["nexys-video,h100-sxm"],
        "weights": ["bf16,int4:group=64"],
        "prompt_tokens": ["1,77,4001"],
        "new": ["0,5"],
        "context": ["1,78,82,4006"],
        "resident": ["none,100MiB,7GiB"],
    },
    "runtimes, and what does not exist": {
        "model": ["llama-3.1-8b,nope"],
        "on": ["rtx-3090"],
        "runtime": ["vllm,llama.cpp"],
        "context": ["1024:8192:x2"],
        "batch": ["1000000000,1"],
        "overrides": ["pcie.gen=3,9"],
        "keep": ["head=bf16,nf4"],
    },
}


def planned_alone(options: dict[str, list[str]]) -> dict[str, object] | str:
    """Return the columns of a row's own plan, by the way of the command line, or why there is none."""
    resident = read_bytes(options["resident"][0]) if "resident" in options else None
    several: dict[str, Any] = {k: v for k, v in options.items() if k in ("overrides", "keep")}
    single: dict[str, Any] = {
        k: int(v[0]) if k in COUNTS else read_value(k, v[0])
        for k, v in options.items()
        if k not in several and k != "resident"
    }
    try:
        asked = scenario(**single, **several)
        plan = plan_with(asked.model, asked.machine, asked.workload, asked.costing, resident_bytes=resident)
        return planned_values(plan)
    except TierlineError as error:
        return str(error)


@pytest.mark.parametrize("name", SPACES)
def test_a_row_is_the_plan_of_its_options(name: str) -> None:
    space = read_axes(SPACES[name])
    rows = min(space.rows, 3000)
    cells = {column: found.cells() for column, found in Evaluator.of(space).evaluate(0, rows).items()}
    indices = space.indices(0, rows)
    reasons = 0
    for row in np.random.default_rng(7).permutation(rows)[:40].tolist():
        options: dict[str, list[str]] = {}
        for axis in space.axes:
            options.setdefault(axis.option, []).append(axis.text(int(indices[axis.column][row])))
        wanted = planned_alone(options)
        if isinstance(wanted, str):
            assert cells["reason"][row] == wanted
            assert cells["total_bytes"][row] is None
            reasons += 1
            continue
        assert cells["reason"][row] is None
        assert {column: cells[column][row] for column in wanted} == wanted
    assert reasons < min(rows, 40)


counts = st.one_of(st.integers(0, 5), st.integers(0, 10**9 + 1), st.just(10**9))


@given(st.dictionaries(st.sampled_from(COUNTS), counts))
@settings(max_examples=300, deadline=None)
def test_counts_are_valid_where_a_workload_takes_them(given_counts: dict[str, int]) -> None:
    try:
        made = Workload.of(**given_counts)
    except TierlineError:
        made = None
    assert bool(is_valid(given_counts, 1)[0]) == (made is not None)
    if made is not None:
        three = (given_counts.get(name) for name in ("prompt_tokens", "new", "context"))
        assert filled(*three) == (made.prompt_tokens, made.new)


@given(st.integers(0, 10**10), st.data())
@settings(max_examples=40, deadline=None)
def test_a_placement_holds_for_the_whole_span_that_it_tracked(capacity: int, data: st.DataObject) -> None:
    model = open_model("smollm2-135m")
    weights = weigh(model, Precision.of())
    machine = load_machine("nexys-video")
    lodging = Lodging(model, machine, weights, main_phase(model, Workload.of().values()), 2)
    tracked = Tracked.of(capacity % (2 * weights.stored_bytes))
    found = lodging.within(tracked)[1]
    span = tracked.span
    other = data.draw(st.integers(span.low, (span.high or 10**12) - 1))
    again = lodging.within(other)[1]
    assert again.strategy == found.strategy
    assert again.placement.pinned == found.placement.pinned
    assert again.placement.streamed == found.placement.streamed
    assert (again.spare_pinned, again.route) == (found.spare_pinned, found.route)


def test_what_cannot_be_tracked_is_refused() -> None:
    tracked = Tracked.of(7)
    for wrong in ("__add__", "__mul__", "__rsub__"):
        with pytest.raises(TypeError):
            getattr(tracked, wrong)(tracked if wrong == "__add__" else -9)
    with pytest.raises(TypeError):
        _ = -tracked
