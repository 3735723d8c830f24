"""Shards: every device's part adds up to the whole, and what cannot be divided is refused or held whole."""

from dataclasses import replace
from fractions import Fraction

import pytest

import tierline
from tierline.cost.costing import Costing
from tierline.cost.footprint import kv_cache_bytes
from tierline.cost.operations import operation_costs
from tierline.cost.weights import weigh
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.models.cut import Place
from tierline.models.description import Model
from tierline.models.share import Share
from tierline.models.stages import assign_stages, even_stages, proportional_stages, repeating_layers, shard

PRECISION = Precision.of(weights="bf16", kv="bf16", activations="bf16", keep=())
COSTING = Costing(PRECISION)
VALUES = {
    "batch": 6,
    "prompt_tokens": 31,
    "new": 5,
    "context": 36,
    "images": 0,
    "steps": 0,
    "source_tokens": 0,
}


def whole(model: Model) -> dict[str, int]:
    return dict.fromkeys((x.name for c in model.components for x in c.layers), 0)


def place(tp: int = 0, of: int = 1, ep: int = 0, experts: int = 1, batch: int = 6) -> Place:
    return Place(Share(tp, of), Share(ep, experts), batch)


def parameters(model: Model) -> dict[str, int]:
    """Return the stored elements by class of tensor."""
    found: dict[str, int] = {}
    for placed in model.tensors():
        if placed.tensor.in_file:
            found[placed.tensor.kind] = found.get(placed.tensor.kind, 0) + placed.tensor.elements
    return found


@pytest.mark.parametrize(
    ("name", "degree"),
    [("llama-3.1-8b", 8), ("gpt2-medium", 4), ("mixtral-8x7b", 4), ("pythia-1b", 4), ("phi-3-mini-4k", 8),
     ("command-r-35b", 2), ("gpt-oss-20b", 8), ("falcon-40b", 8), ("olmo-2-7b", 4)],
)  # fmt: skip
def test_matrices_divide_exactly_and_norms_are_everywhere(name: str, degree: int) -> None:
    model = tierline.model(name)
    parts = [parameters(shard(model, whole(model), 0, place(i, degree)).model) for i in range(degree)]
    for kind, count in parameters(model).items():
        total = sum(part[kind] for part in parts)
        if kind in ("norms", "router", "positions"):
            assert total == degree * count or name == "olmo-2-7b", (
                kind
            )  # norms of all heads are divided there
        elif kind != "biases":
            assert total == count, kind


@pytest.mark.parametrize(("name", "degree"), [("llama-3.1-8b", 8), ("gpt2-medium", 4), ("command-r-35b", 2)])
def test_flop_of_all_devices_is_that_of_one(name: str, degree: int) -> None:
    model = tierline.model(name)

    def flop(one: Model) -> int:
        weights = weigh(one, PRECISION)
        phase = next(p for p in one.phases if p.name == "prefill")
        values = {**VALUES, "tokens": 31, "context": 31}
        return sum(
            count * cost.flop
            for kind, count in weights.kinds(phase.components)
            for cost in operation_costs(kind, phase, values, COSTING)
        )

    parts = [flop(shard(model, whole(model), 0, place(i, degree)).model) for i in range(degree)]
    assert sum(parts) == flop(model)


@pytest.mark.parametrize(
    ("name", "degree", "copies"),
    [("llama-3.1-8b", 8, 1), ("llama-3.1-8b", 16, 2), ("llama-3.1-8b", 32, 4), ("qwen2.5-1.5b", 4, 2),
     ("deepseek-v2-lite", 4, 4), ("falcon-40b", 4, 1)],
)  # fmt: skip
def test_the_cache_is_divided_by_key_heads_and_held_again_where_they_are_fewer(
    name: str, degree: int, copies: int
) -> None:
    model = tierline.model(name)
    held = kv_cache_bytes(model, weigh(model, PRECISION), VALUES, COSTING)
    parts = []
    for i in range(degree):
        own = shard(model, whole(model), 0, place(i, degree)).model
        parts.append(kv_cache_bytes(own, weigh(own, PRECISION), VALUES, COSTING))
    assert sum(parts) == copies * held


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_experts_have_one_home_and_all_rows_reach_them(name: str) -> None:
    model, degree = tierline.model(name), 4
    shards = [shard(model, whole(model), 0, place(ep=i, experts=degree, batch=24)) for i in range(degree)]
    count = parameters(model)["experts"]
    assert [parameters(s.model)["experts"] for s in shards] == [count // degree] * degree
    for other in ("attention", "norms", "embeddings"):
        assert {parameters(s.model)[other] for s in shards} == {parameters(model)[other]}

    def routed(one: Model, batch: int) -> Fraction:
        weights = weigh(one, PRECISION)
        phase = next(p for p in one.phases if p.name == "prefill")
        values = {**VALUES, "batch": batch, "tokens": 31, "context": 31}
        return Fraction(
            sum(
                count * cost.flop
                for kind, count in weights.kinds(phase.components)
                for cost in operation_costs(kind, phase, values, COSTING)
                if cost.operation.experts
            )
        )

    # every device has a quarter of the 24 sequences, and its experts a quarter of what all of them ask for
    assert sum(routed(s.model, 6) for s in shards) == routed(model, 24)
    exchanged = {e.kind for s in shards for es in s.exchanges.values() for e in es}
    assert exchanged == {"all-to-all"}


def test_a_layer_is_summed_over_the_devices_once_behind_each_half() -> None:
    def sums(name: str) -> list[list[str]]:
        model = tierline.model(name)
        made = shard(model, whole(model), 0, place(0, 2)).exchanges
        return [
            [e.operation for e in made[layer] if e.kind == "all-reduce"] for layer in repeating_layers(model)
        ]

    assert sums("llama-3.2-1b") == [["self_attn.o_proj", "mlp.down_proj"]] * 16
    assert sums("command-r-35b") == [["mlp.down_proj"]] * 40  # attention and feed-forward side by side
    assert sums("deepseek-v2-lite")[0] == ["self_attn.o_proj", "mlp.down_proj"]
    assert sums("deepseek-v2-lite")[1] == ["self_attn.o_proj", "mlp.shared_experts.down_proj"]


def test_heads_that_do_not_divide_are_refused_with_what_does() -> None:
    model = tierline.model("smollm2-135m")  # 9 heads over 3
    with pytest.raises(InputError, match=r"9 heads over 3 key heads.*tp may be 3, 9"):
        shard(model, whole(model), 0, place(0, 2))
    # an image encoder of 12 heads has none to spare for 9 devices and is whole on each
    seeing = tierline.model("smolvlm2-256m")
    part = shard(seeing, whole(seeing), 0, place(0, 9)).model
    vision = [
        sum(t.elements for x in c.layers for t in x.block.tensors)
        for m in (seeing, part)
        for c in m.components[:1]
    ]
    assert vision[0] == vision[1]


def test_stages_share_all_layers_and_a_tied_head_takes_its_table_along() -> None:
    model = tierline.model("llama-3.2-1b")
    stage_of = assign_stages(model, 3, None)
    parts = [shard(model, stage_of, i, place()).model for i in range(3)]
    assert [sum("layers." in x.name for x in p.components[0].layers) for p in parts] == [5, 5, 6]
    table = 128256 * 2048
    assert sum(p.parameters for p in parts) == model.parameters + table
    assert parts[2].components[1].layers[0].block.tensors[0].in_file
    assert weigh(parts[1], PRECISION).stored_bytes > 0


def test_stages_refuse_more_than_there_are_layers() -> None:
    with pytest.raises(InputError, match=r"pp=17: llama-3\.2-1b has 16 layers"):
        assign_stages(tierline.model("llama-3.2-1b"), 17, None)
    with pytest.raises(InputError, match="gets no layer"):
        assign_stages(tierline.model("llama-3.2-1b"), 2, [1000.0, 1.0])


def test_layers_are_split_as_llama_cpp_splits_them() -> None:
    # by hand from llama_model::load_tensors: layer i goes to upper_bound(splits, i / 33) for 32 layers
    assert proportional_stages(32, [1, 1]) == [0] * 17 + [1] * 16
    assert proportional_stages(32, [3, 1]) == [0] * 25 + [1] * 8
    assert proportional_stages(32, [24, 8, 16]) == [0] * 17 + [1] * 5 + [2] * 11
    assert even_stages(80, 3) == [26, 27, 27]
    assert len(proportional_stages(31, [5, 3, 2])) == 32


def test_an_action_expert_follows_the_layers_whose_keys_it_reads() -> None:
    model = tierline.model("pi0")
    stage_of = assign_stages(model, 2, None)
    for i in range(18):
        assert stage_of[f"model.dit.layers.{i}"] == stage_of[f"model.vlm.language_model.layers.{i}"]
    assert stage_of["model.vlm.vision_tower.encoder.layers.0"] == 0


def test_rows_of_another_batch_reach_the_experts() -> None:
    model = tierline.model("mixtral-8x7b")
    made = shard(model, whole(model), 0, place(ep=1, experts=8, batch=29)).model
    layer = next(x for x in made.components[0].layers if x.name.endswith("layers.0"))
    experts = next(o for o in layer.block.operations if o.experts)
    assert str(experts.rows) == "29*tokens"
    assert experts.experts is not None
    assert (experts.experts.count, experts.experts.total, experts.experts.first) == (1, 8, 1)
    assert replace(experts.experts, total=0).chosen_from == 1
