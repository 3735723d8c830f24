"""Passes that differ, against adding up one pass after the other."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tierline.cost.costing import Costing
from tierline.cost.layer_pass import layer_pass
from tierline.cost.passes import pass_groups
from tierline.cost.phase_cost import phase_cost
from tierline.cost.traffic import distinct_experts, visit_chances
from tierline.cost.weights import ModelWeights, weigh
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.formats.weight import Weight
from tierline.models.catalogue import catalogue_model
from tierline.models.description import Experts, Model, Phase
from tierline.models.open import open_model
from tierline.models.workload import Workload

COSTING = Costing(Precision.of(weights="mxfp8", kv="mxfp8:block=8"), "materialised")
TOTALS = ("weight_read_bytes", "kv_read_bytes", "kv_write_bytes", "activation_bytes", "flop")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A Gemma 2 of which every other layer has a window of 23."""
    path = tmp_path_factory.mktemp("gemma") / "config.json"
    config = {
        "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 48,
        "intermediate_size": 116, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 8, "vocab_size": 131, "sliding_window": 23, "max_position_embeddings": 512,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return open_model(str(path))


def phase_of(model: Model, name: str) -> Phase:
    return next(phase for phase in model.phases if phase.name == name)


def added_up(
    phase: Phase, weights: ModelWeights, costing: Costing, passes: list[dict[str, int]]
) -> dict[str, int]:
    totals = dict.fromkeys(TOTALS, 0)
    for values in passes:
        for entry in weights.of(phase.components):
            cost = layer_pass(entry.weights, phase, values, costing)
            for name in TOTALS:
                totals[name] += getattr(cost, name)
    return totals


@pytest.mark.parametrize("chunk", [1, 7, 13, 31, 97, 200])
def test_a_prompt_in_chunks_is_the_sum_of_its_passes(model: Model, chunk: int) -> None:
    phase, prompt = phase_of(model, "prefill"), 97
    costing, weights = replace(COSTING, prefill_chunk=chunk), weigh(model, COSTING.precision)
    workload = Workload.of(batch=2, prompt_tokens=prompt, new=3).values()
    cost = phase_cost(phase, weights, workload, costing)
    starts = range(0, prompt, chunk)
    passes = [
        {**workload, "tokens": min(chunk, prompt - s), "context": min(prompt, s + chunk)} for s in starts
    ]
    assert cost.passes == len(starts)
    assert {name: getattr(cost, name) for name in TOTALS} == added_up(phase, weights, costing, passes)


def test_every_chunk_reads_the_weights_and_the_cache_of_the_earlier_ones(model: Model) -> None:
    phase, weights = phase_of(model, "prefill"), weigh(model, COSTING.precision)
    workload = Workload.of(prompt_tokens=20, new=1).values()
    whole, cut = (phase_cost(phase, weights, workload, replace(COSTING, prefill_chunk=c)) for c in (None, 10))
    one_token = 5 * 2 * 2 * 9  # layers, keys and values, heads, 8 elements and a scale
    assert (whole.kv_read_bytes, cut.kv_read_bytes) == (0, 10 * one_token)
    assert whole.kv_write_bytes == cut.kv_write_bytes == 20 * one_token
    assert cut.weight_read_bytes > 1.9 * whole.weight_read_bytes


@pytest.mark.parametrize(("prompt", "new"), [(5, 11), (20, 31), (41, 7), (3, 0)])
def test_an_averaged_decode_is_the_sum_of_its_tokens(model: Model, prompt: int, new: int) -> None:
    phase, weights = phase_of(model, "decode"), weigh(model, COSTING.precision)
    costing = replace(COSTING, average_decode=True)
    workload = Workload.of(batch=3, prompt_tokens=prompt, new=new).values()
    cost = phase_cost(phase, weights, workload, costing)
    passes = [{**workload, "tokens": 1, "context": prompt + i} for i in range(1, new + 1)]
    assert cost.passes == new
    assert {name: getattr(cost, name) for name in TOTALS} == added_up(phase, weights, costing, passes)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c,
        lambda c: replace(c, average_decode=True),
        lambda c: replace(c, prefill_chunk=13),
        lambda c: replace(c, activation_policy="fused"),
    ],
)
def test_arrays_of_workloads_cost_what_each_costs_alone(
    model: Model, change: Callable[[Costing], Costing]
) -> None:
    costing, weights = change(COSTING), weigh(model, COSTING.precision)
    prompts, news, batches = (np.array(x) for x in ((5, 20, 41, 97, 13), (3, 31, 7, 1, 2), (1, 2, 3, 5, 8)))
    many = {**Workload.of(context=2).values(), "batch": batches, "prompt_tokens": prompts, "new": news}
    many["context"] = prompts + news
    for phase in model.phases:
        cost = phase_cost(phase, weights, many, costing)
        for i in range(len(prompts)):
            alone = Workload.of(batch=int(batches[i]), prompt_tokens=int(prompts[i]), new=int(news[i]))
            one = phase_cost(phase, weights, alone.values(), costing)
            for name in TOTALS:
                assert np.broadcast_to(getattr(cost, name), 5)[i] == getattr(one, name), name


def test_groups_hold_every_pass_once(model: Model) -> None:
    workload = Workload.of(prompt_tokens=29, new=17).values()
    costing = replace(COSTING, average_decode=True, prefill_chunk=5)
    groups = pass_groups(phase_of(model, "decode"), workload, costing, (31, 37))
    assert [(g.first_context, g.context, g.passes) for g in groups] == [(30, 31, 2), (32, 37, 6), (38, 46, 9)]
    cut = pass_groups(phase_of(model, "prefill"), workload, costing, (16,))
    assert [(g.first_context, g.context, g.tokens, g.passes) for g in cut] == [
        (5, 20, 5, 4),
        (25, 25, 5, 1),
        (29, 29, 4, 1),
    ]


def test_given_shares_of_experts_against_every_routing() -> None:
    shares = (0.5, 0.3, 0.2)
    routed = Experts(3, 1)
    mean = 0.0
    for choice in product(range(3), repeat=4):
        chance = 1.0
        for expert in choice:
            chance *= shares[expert]
        mean += chance * len(set(choice))
    assert distinct_experts(routed, 4, shares) == pytest.approx(mean)
    assert distinct_experts(Experts(7, 2), 3, (0.25,) * 7) == pytest.approx(
        distinct_experts(Experts(7, 2), 3)
    )


def test_no_expert_is_visited_more_than_once_by_a_token() -> None:
    chances = visit_chances(Experts(4, 2), (97.0, 1.0, 1.0, 1.0))
    assert chances == pytest.approx((1, 1 / 3, 1 / 3, 1 / 3))
    assert sum(visit_chances(Experts(5, 3), (8.0, 4.0, 2.0, 1.0, 1.0))) == pytest.approx(3)
    for wrong in ((1.0, 1.0), (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, -1.0)):
        with pytest.raises(InputError, match="expert shares"):
            visit_chances(Experts(4, 2), wrong)


@pytest.mark.parametrize("mix", ["q4_k_m", "q3_k_m", "q4_k_s"])
def test_layers_that_a_mix_treats_alike_are_of_one_kind_and_no_others(mix: str) -> None:
    model, precision = catalogue_model("llama-3.1-70b"), Precision.of(weights=mix)
    kinds = dict[int, set[tuple[int, ...]]]()
    for placed in weigh(model, precision).of(["text"]):
        layer = placed.layer
        alone = (
            Weight("text", t.kind, layer.full_name(t.name), t.shape, layer=layer.index, layers=80)
            for t in layer.block.tensors
        )
        sizes = tuple(precision.footprint_bytes(weight) for weight in alone)
        assert tuple(placed.weights.tensor_bytes.values()) == sizes
        kinds.setdefault(id(placed.weights), set()).add(sizes)
    assert 4 <= len(kinds) <= 6  # the embedding and the last norm are two of them
    assert {len(of_one) for of_one in kinds.values()} == {1}
