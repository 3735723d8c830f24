"""Live ranges of a small layer, step by step, on primes."""

from dataclasses import replace

import pytest

from tierline.cost.buffers import LEAN, BufferRules, layer_buffers
from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.models.description import Attention, Block, Operation
from tierline.models.extent import Extent
from tierline.plan.runtime import load_runtime, runtime_names

ROWS, CONTEXT = Extent.parse("batch*tokens"), Extent.parse("context")
VALUES = {"batch": 1, "tokens": 11, "context": 11}
HIDDEN, QUERY, KEY, INNER = 10, 21, 7, 13
HOW = Attention(3, 1, 7, 7, CONTEXT, "append", 14)
INT8 = parse_format("int8")
BLOCK = Block(
    (),
    (
        Operation("norm", "norm", ROWS, HIDDEN, HIDDEN),
        Operation("q", "linear", ROWS, HIDDEN, QUERY),
        Operation("k", "linear", ROWS, HIDDEN, KEY),
        Operation("v", "linear", ROWS, HIDDEN, KEY),
        Operation("attend", "attention", ROWS, QUERY, QUERY, attention=HOW),
        Operation("o", "linear", ROWS, QUERY, HIDDEN),
        Operation("norm2", "norm", ROWS, HIDDEN, HIDDEN),
        Operation("gate", "linear", ROWS, HIDDEN, INNER),
        Operation("act", "elementwise", ROWS, INNER, INNER),
        Operation("up", "linear", ROWS, HIDDEN, INNER),
        Operation("down", "linear", ROWS, INNER, HIDDEN),
    ),
)


def by_step(rules: BufferRules, block: Block = BLOCK) -> dict[str, int]:
    """Return the bytes per row that are live in each step."""
    made = layer_buffers(block, VALUES, INT8, rules)
    counts = made.live_bytes()
    assert made.peak_bytes == max(counts)
    assert all(count % 11 == 0 for count in counts)
    return {name: count // 11 for name, count in zip(made.steps, counts, strict=True)}


def test_lean_buffers_live_from_their_making_to_their_last_use() -> None:
    assert by_step(LEAN) == {
        "norm": 10 + 10,
        "q": 10 + 10 + 21,
        "k": 10 + 10 + 21 + 7,
        "v": 10 + 10 + 21 + 7 + 7,  # the normed rows are read for the last time
        "attend": 10 + 21 + 21,  # keys and values are in the cache
        "o": 10 + 21 + 10,  # the sum goes in the place of the result
        "norm2": 10 + 10,
        "gate": 10 + 10 + 13,
        "up": 10 + 10 + 13 + 13,
        "down": 10 + 13 + 10,
    }


def test_frames_hold_inputs_and_every_operation_makes_a_tensor() -> None:
    rules = load_runtime("transformers").buffers
    cache = 2 * KEY
    assert by_step(rules) == {
        "norm": 20 + 40 + 10 + 10 - cache,  # beside model and layer input: fp32 rows, their copy, the result
        "q": 20 + 10 + 21 - cache,
        "k": 20 + 10 + 21 + 7 - cache,
        "v": 20 + 10 + 21 + 7 + 7 - cache,
        "attend rotate queries": 20 + 10 + 35 + 3 * 21 - cache,
        "attend rotate keys": 20 + 10 + 35 + 21 + 3 * 7 - cache,
        "attend": 20 + 10 + 21 + 21,
        "o": 20 + 10 + 21 + 10,
        "norm2": 20 + 10 + 40 + 10 + 10,
        "gate": 20 + 10 + 10 + 13,
        "act": 20 + 10 + 10 + 2 * 13,
        "up": 20 + 10 + 10 + 2 * 13,
        "down input": 20 + 10 + 10 + 3 * 13,
        "down": 20 + 10 + 10 + 13 + 10,
        "residual sum": 20 + 10 + 10 + 10,  # the feed-forward's, beside the stream that it adds to
    }


def test_an_eager_kernel_makes_scores_thrice_and_holds_them() -> None:
    rules = load_runtime("transformers-eager").buffers
    steps, scores, expanded = by_step(rules), 3 * 11, 3 * 14
    beside = 20 + 10 + 21 + expanded
    assert steps["attend scale"] == beside + 2 * scores
    assert steps["attend softmax"] == beside + scores + 2 * 4 * scores  # in fp32, before and after
    assert steps["attend"] == beside + scores + 21
    assert steps["down input"] == by_step(load_runtime("transformers").buffers)["down input"] + scores
    lean = by_step(replace(LEAN, kernel="eager"))
    assert lean["attend"] == 10 + 21 + 21 + scores
    assert lean["down"] == by_step(LEAN)["down"]


def test_a_norm_of_queries_is_part_of_their_branch() -> None:
    norm = Operation("q_norm", "norm", Extent.parse("3*batch*tokens"), 7, 7)
    operations = (*BLOCK.operations[:2], norm, *BLOCK.operations[2:])
    steps = by_step(LEAN, Block((), operations))
    assert steps["q_norm"] == 10 + 10 + 21 + 21
    assert {name: count for name, count in steps.items() if name != "q_norm"} == by_step(LEAN)


def test_every_runtime_is_data_that_loads() -> None:
    assert {"bare", "llama.cpp", "transformers", "vllm"} <= set(runtime_names())
    for name in runtime_names():
        assert load_runtime(name).source
    assert load_runtime("bare").buffers == LEAN
    with pytest.raises(InputError, match="bare"):
        load_runtime("nothing")
