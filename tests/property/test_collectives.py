"""Collectives: bytes against the algorithm carried out on real vectors, and against closed forms."""

import random
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.cost.collectives import (
    Collective,
    all_gather,
    all_to_all,
    fastest_all_reduce,
    parts,
    reduce_scatter,
    ring_all_reduce,
    send,
    tree_all_reduce,
)

DEVICES = st.integers(1, 13)
ELEMENTS = st.integers(0, 211)
WIDTHS = st.sampled_from([1, 2, 4, 7])


class Wire:
    """Carries parts between devices in rounds and counts the elements."""

    def __init__(self, devices: int) -> None:
        self.sent = [0] * devices
        self.serial = self.rounds = 0

    def carry(self, messages: list[tuple[int, int]]) -> None:
        """Count one round of (sender, elements)."""
        for sender, elements in messages:
            self.sent[sender] += elements
        self.rounds += 1
        self.serial += max((elements for _, elements in messages), default=0)


def cut(vector: list[int], devices: int) -> list[list[int]]:
    cuts, start = [], 0
    for size in parts(len(vector), devices):
        cuts.append(vector[start : start + size])
        start += size
    return cuts


def run_ring(vectors: list[list[int]], wire: Wire) -> list[list[int]]:
    """Reduce and gather around a ring, message by message; return what every device ends with."""
    count = len(vectors)
    held = [cut(vector, count) for vector in vectors]
    for step in range(count - 1):
        moving = [(i, (i - step) % count) for i in range(count)]
        messages = [(i, chunk, list(held[i][chunk])) for i, chunk in moving]
        for i, chunk, data in messages:
            target = held[(i + 1) % count]
            target[chunk] = [a + b for a, b in zip(target[chunk], data, strict=True)]
        wire.carry([(i, len(data)) for i, _, data in messages])
    for step in range(count - 1):
        messages = [(i, (i + 1 - step) % count, list(held[i][(i + 1 - step) % count])) for i in range(count)]
        for i, chunk, data in messages:
            held[(i + 1) % count][chunk] = data
        wire.carry([(i, len(data)) for i, _, data in messages])
    return [[x for chunk in chunks for x in chunk] for chunks in held]


def run_tree(vectors: list[list[int]], wire: Wire) -> list[list[int]]:
    """Reduce up a binomial tree to device 0 and broadcast down it."""
    count, size = len(vectors), len(vectors[0])
    held = [list(vector) for vector in vectors]
    strides = [2**k for k in range((count - 1).bit_length())]
    for stride in strides:
        pairs = [(i, i - stride) for i in range(count) if i % (2 * stride) == stride]
        for sender, target in pairs:
            held[target] = [a + b for a, b in zip(held[target], held[sender], strict=True)]
        wire.carry([(sender, size) for sender, _ in pairs])
    for stride in reversed(strides):
        pairs = [(i, i + stride) for i in range(0, count, 2 * stride) if i + stride < count]
        for sender, target in pairs:
            held[target] = list(held[sender])
        wire.carry([(sender, size) for sender, _ in pairs])
    return held


@pytest.mark.parametrize("run", [run_ring, run_tree])
@given(devices=DEVICES, elements=ELEMENTS, width=WIDTHS, seed=st.integers(0, 2**20))
def test_an_all_reduce_sends_what_the_algorithm_sends(
    run: Callable[[list[list[int]], Wire], list[list[int]]],
    devices: int,
    elements: int,
    width: int,
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - any vector will do
    vectors = [[chance.randrange(1000) for _ in range(elements)] for _ in range(devices)]
    wire = Wire(devices)
    result = run(vectors, wire)
    assert result == [[sum(column) for column in zip(*vectors, strict=True)]] * devices
    made = (
        ring_all_reduce(elements, devices, width)
        if run is run_ring
        else tree_all_reduce(elements * width, devices)
    )
    assert made.total_bytes == width * sum(wire.sent)
    assert made.sent_bytes == width * max(wire.sent)
    assert made.serial_bytes == width * wire.serial
    assert made.rounds == wire.rounds


@given(devices=DEVICES, elements=ELEMENTS, width=WIDTHS)
def test_closed_forms(devices: int, elements: int, width: int) -> None:
    size = elements * width
    assert ring_all_reduce(elements, devices, width).total_bytes == 2 * (devices - 1) * size
    assert tree_all_reduce(size, devices).total_bytes == 2 * (devices - 1) * size
    assert all_gather(elements, devices, width).total_bytes == (devices - 1) * size
    assert reduce_scatter(elements, devices, width).total_bytes == (devices - 1) * size
    assert all_to_all(size, devices).total_bytes == (devices - 1) * size
    assert send(size).total_bytes == size


@given(devices=st.integers(2, 13), each=st.integers(1, 97), width=WIDTHS)
def test_where_parts_divide_every_device_sends_the_textbook_fraction(
    devices: int, each: int, width: int
) -> None:
    elements = devices * each
    size = Fraction(elements * width)
    half = size * (devices - 1) / devices
    assert ring_all_reduce(elements, devices, width).sent_bytes == 2 * half
    assert ring_all_reduce(elements, devices, width).serial_bytes == 2 * half
    assert all_gather(elements, devices, width).sent_bytes == half
    assert reduce_scatter(elements, devices, width).sent_bytes == half
    assert all_to_all(int(size), devices).sent_bytes == half


@given(devices=st.integers(2, 13), size=st.integers(1, 1000))
def test_an_all_to_all_leaves_one_part_at_home(devices: int, size: int) -> None:
    made = all_to_all(size, devices)
    sent = [size - parts(size, devices)[i] for i in range(devices)]
    assert made.sent_bytes == max(sent)
    assert made.total_bytes == sum(sent)
    assert made.rounds == devices - 1


@given(devices=st.integers(2, 64), size=st.integers(1, 2**30))
def test_time_is_rounds_of_latency_and_bytes_at_the_rate(devices: int, size: int) -> None:
    rate, latency = 3e9, 7e-6
    made = ring_all_reduce(size, devices)
    assert made.time_s(rate, latency) == made.rounds * latency + made.serial_bytes / rate
    assert made.time_s(rate, latency, "bus") == made.rounds * latency + made.total_bytes / rate
    best = fastest_all_reduce(size, devices, 1, rate, latency, "switch")
    tree = tree_all_reduce(size, devices)
    assert best.time_s(rate, latency) == min(made.time_s(rate, latency), tree.time_s(rate, latency))


def test_few_bytes_go_up_a_tree_and_many_around_a_ring() -> None:
    def chosen(size: int) -> Collective:
        return fastest_all_reduce(size, 64, 1, 370e9, 3.7e-6, "switch")

    assert chosen(1000).algorithm == "tree"
    assert chosen(10**9).algorithm == "ring"


def test_one_device_sends_nothing() -> None:
    for made in (ring_all_reduce(101, 1), tree_all_reduce(101, 1), all_gather(101, 1), all_to_all(101, 1)):
        assert (made.total_bytes, made.sent_bytes, made.serial_bytes, made.rounds) == (0, 0, 0, 0)
