"""Each formula against counting done another way, on primes."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from tierline.cost import activations, flops, kv, traffic
from tierline.cost.roofline import Load, attainable
from tierline.formats.parse import parse_format
from tierline.models.description import Attention, Block, Experts, Operation, Tensor
from tierline.models.extent import Extent

ROWS, ONE, CONTEXT = Extent.parse("batch*tokens"), Extent.parse("1"), Extent.parse("context")
VALUES = {"batch": 2, "tokens": 3, "context": 17}


def attention(**changes: object) -> Attention:
    base: dict[str, object] = {
        "heads": 6,
        "kv_heads": 3,
        "head_dim": 5,
        "value_dim": 7,
        "keys": CONTEXT,
        "cache": "append",
        "cache_width": 36,
    }
    return Attention(**(base | changes))  # type: ignore[arg-type]


def test_token_bytes_apply_the_format_to_every_head_row() -> None:
    # 3 heads of 5 in blocks of 8 pad to 8 + 1 scale; 3 of 7 too
    assert kv.token_bytes(attention(), parse_format("mxfp8:block=8")) == 3 * 9 + 3 * 9
    assert kv.token_bytes(attention(), parse_format("bf16")) == 36 * 2


def test_a_latent_cache_is_one_row() -> None:
    latent = attention(cache_width=11)
    assert kv.token_bytes(latent, parse_format("mxfp8:block=8")) == 2 * 9
    assert kv.token_bytes(attention(cache_width=0, cache="none"), parse_format("bf16")) == 0


def test_a_window_touches_what_its_queries_see() -> None:
    for window, tokens, context in product((1, 2, 5), (1, 2, 3, 7), (7, 11, 13)):
        seen: set[int] = set()
        for query in range(context - tokens, context):
            seen |= set(range(max(0, query - window + 1), query + 1))
        values = {"batch": 1, "tokens": tokens, "context": context}
        assert kv.keys_touched(attention(window=window), values) == len(seen)


def test_the_cache_holds_every_token_in_whole_pages() -> None:
    held = kv.footprint_bytes(attention(), parse_format("bf16"), VALUES, block_tokens=16)
    assert held == 2 * 32 * 36 * 2
    assert kv.footprint_bytes(attention(window=5), parse_format("bf16"), VALUES) == 2 * 5 * 36 * 2
    assert kv.footprint_bytes(attention(cache="state"), parse_format("bf16"), VALUES) == 2 * 36 * 2


def test_a_prefill_in_one_piece_reads_no_cache_and_writes_every_token() -> None:
    bf16 = parse_format("bf16")
    assert kv.read_bytes(attention(), bf16, VALUES | {"tokens": 17}, own_at_hand=True) == 0
    assert kv.read_bytes(attention(), bf16, VALUES, own_at_hand=True) == 2 * (17 - 3) * 72
    assert kv.read_bytes(attention(), bf16, VALUES, own_at_hand=False) == 2 * 17 * 72
    assert kv.write_bytes(attention(), bf16, VALUES) == 2 * 3 * 72
    assert kv.write_bytes(attention(cache="cross"), bf16, VALUES) == 0


def test_distinct_experts_is_the_mean_over_every_routing() -> None:
    count, per_token, rows = 5, 2, 3
    choices = list(combinations(range(count), per_token))
    total = sum(len(set().union(*routing)) for routing in product(choices, repeat=rows))
    mean = Fraction(total, comb(count, per_token) ** rows)
    assert traffic.distinct_experts(Experts(count, per_token), rows) == pytest.approx(float(mean))
    assert traffic.experts_read_bytes(Experts(count, per_token), 1, 35) == pytest.approx(14)


def test_looked_up_rows_never_cost_more_than_the_table() -> None:
    assert traffic.table_read_bytes(3, 11, 7, 77) == 21
    assert traffic.table_read_bytes(13, 11, 7, 77) == 77
    assert traffic.table_read_bytes(11, 11, 8, 79) == 79  # rows rounded up
    assert traffic.table_read_bytes(0, 11, 7, 79) == 0


@pytest.mark.parametrize(
    ("name", "row_bytes", "constants"),
    [("nf4", 192 // 2 + 4 * 3, 16 * 4), ("int8:tensor", 192, 4), ("bf16", 384, 0), ("mxfp8", 192 + 6, 0)],
)
def test_what_a_table_holds_once_is_read_once_however_many_rows(
    name: str, row_bytes: int, constants: int
) -> None:
    number_format, shape = parse_format(name), (101, 192)
    assert traffic.row_bytes(number_format, shape) == row_bytes
    whole = number_format.footprint_bytes(shape)
    assert traffic.table_read_bytes(7, 101, row_bytes, whole) == 7 * row_bytes + constants
    assert traffic.table_read_bytes(101, 101, row_bytes, whole) == whole


def test_attention_flop_counts_the_products_of_two_matrix_products() -> None:
    counted = 0
    for _sequence, _head, _query, _key in product(range(2), range(6), range(3), range(17)):
        counted += 2 * 5 + 2 * 7  # a dot product of head_dim, then value_dim multiply-adds
    assert flops.attention_flop(attention(), 2 * 3, VALUES) == counted


def test_expert_flop_leaves_the_biases_out() -> None:
    routed = Operation("e", "experts", ROWS, 5, 5, ("up", "bias", "down"), experts=Experts(7, 2))
    tensors = {
        "up": Tensor("up", (7, 11, 5), "experts"),
        "bias": Tensor("bias", (7, 11), "biases"),
        "down": Tensor("down", (7, 5, 11), "experts"),
    }
    assert flops.operation_flop(routed, tensors, VALUES) == 2 * (2 * 3) * 2 * (11 * 5 + 5 * 11)


def a_block() -> Block:
    return Block(
        (),
        (
            Operation("norm", "norm", ROWS, 10, 10),
            Operation("q", "linear", ROWS, 10, 30),
            Operation("attend", "attention", ROWS, 30, 42, attention=attention()),
            Operation("o", "linear", ROWS, 42, 10),
            Operation("norm2", "norm", ROWS, 10, 10),
            Operation("up", "linear", ROWS, 10, 13),
            Operation("act", "elementwise", ROWS, 13, 13),
            Operation("down", "linear", ROWS, 13, 10),
        ),
    )


def test_activation_policies_count_what_they_say() -> None:
    moved = {
        policy: sum(activations.traffic_elements(a_block(), VALUES, policy, one_row=False))
        for policy in activations.ACTIVATION_POLICIES
    }
    rows = 2 * 3
    scores = 2 * 6 * 3 * 17
    every = 20 + 40 + 72 + 52 + 20 + 23 + 26 + 23
    assert moved == {
        "none": 0,
        "fused": rows * 20,
        "layer-io": rows * 20,
        "materialised": rows * every + 4 * scores,
    }
    assert sum(activations.traffic_elements(a_block(), VALUES, "fused", one_row=True)) == 0
    assert sum(activations.traffic_elements(a_block(), VALUES, "layer-io", one_row=True)) == rows * 20


def test_time_is_the_slowest_or_on_shared_memory_the_sum() -> None:
    loads = [Load("link:a", 3.0, "sustained"), Load("link:b", 5.0, "peak"), Load("compute", 2.0, "peak")]
    assert attainable(loads, shared_memory=False) == (5.0, loads[1])
    assert attainable(loads, shared_memory=True) == (10.0, loads[1])
    unknown = Load("link:c", None, "peak")
    assert attainable([*loads, unknown], shared_memory=False) is None
    assert attainable([loads[0], Load("compute", None, "peak")], shared_memory=False) == (3.0, loads[0])


def test_arrays_of_workloads_give_what_each_gives_alone() -> None:
    contexts = np.array([1, 2, 17, 101])
    many = {"batch": 2, "tokens": 3, "context": contexts}
    one_by_one = [{"batch": 2, "tokens": 3, "context": int(c)} for c in contexts]
    how, bf16 = attention(window=5), parse_format("bf16")
    assert list(kv.footprint_bytes(how, bf16, many)) == [kv.footprint_bytes(how, bf16, v) for v in one_by_one]
    assert list(flops.attention_flop(how, 6, many)) == [flops.attention_flop(how, 6, v) for v in one_by_one]
    rows = np.array([1, 3, 64])
    assert list(traffic.table_read_bytes(rows, 11, 7, 77)) == [7, 21, 77]
    assert traffic.distinct_experts(Experts(5, 2), rows) == pytest.approx(
        [traffic.distinct_experts(Experts(5, 2), int(n)) for n in rows]
    )
