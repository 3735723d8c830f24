"""Cache policies against brute force, and against their closed forms on a cycle."""

from fractions import Fraction
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import BudgetError
from tierline.place.cache import Belady, Cache, Fifo, Found, Lfu, Lru, Pinned, Policy, RandomChoice, walk
from tierline.place.knapsack import most_valuable

NAMES = ("fifo", "lru", "lfu", "random", "belady", "belady-bypass")


def policy(name: str, uses: list[int]) -> Policy:
    made: dict[str, Policy] = {
        "fifo": Fifo(),
        "lru": Lru(),
        "lfu": Lfu(),
        "random": RandomChoice(7),
        "belady": Belady(uses),
        "belady-bypass": Belady(uses, bypass=True),
    }
    return made[name]


def hits(name: str, uses: list[int], capacity: int, *, skip: int = 0) -> int:
    found = walk(Cache(capacity, policy(name, uses)), [(unit, 1) for unit in uses])
    return found[skip:].count(Found.HIT)


def best_possible(uses: tuple[int, ...], capacity: int, *, bypass: bool) -> int:
    """The most hits that any sequence of decisions reaches, by trying all of them."""

    @cache
    def most(at: int, held: frozenset[int]) -> int:
        if at == len(uses):
            return 0
        unit = uses[at]
        if unit in held:
            return 1 + most(at + 1, held)
        options = [held] if bypass else []
        options += [held | {unit}] if len(held) < capacity else [(held - {gone}) | {unit} for gone in held]
        return max(most(at + 1, choice) for choice in options)

    return most(0, frozenset())


sequences = st.lists(st.integers(0, 7), min_size=1, max_size=14)


@given(sequences, st.integers(1, 4))
def test_belady_is_optimal(uses: list[int], capacity: int) -> None:
    assert hits("belady", uses, capacity) == best_possible(tuple(uses), capacity, bypass=False)
    assert hits("belady-bypass", uses, capacity) == best_possible(tuple(uses), capacity, bypass=True)


@given(sequences, st.integers(1, 5))
def test_fifo_and_lru_equal_textbook_models(uses: list[int], capacity: int) -> None:
    queue: list[int] = []
    stack: list[int] = []
    fifo = lru = 0
    for unit in uses:
        if unit in queue:
            fifo += 1
        else:
            queue = [*queue, unit][-capacity:]
        lru += unit in stack[-capacity:]
        stack = [u for u in stack if u != unit] + [unit]
    assert (hits("fifo", uses, capacity), hits("lru", uses, capacity)) == (fifo, lru)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=40),
    st.lists(st.integers(1, 9), min_size=7, max_size=7),
    st.integers(9, 30),
    st.sampled_from(NAMES),
)
def test_residency_never_exceeds_capacity_and_counts_add_up(
    asked: list[tuple[int, int]], sizes: list[int], capacity: int, name: str
) -> None:
    uses = [unit for unit, _ in asked]
    cache = Cache(capacity, policy(name, uses))
    for unit in uses:
        cache.use(unit, sizes[unit])
        assert cache.used_bytes == sum(cache.resident.values()) <= capacity
    counts = cache.counts
    assert counts.hits + counts.cold_loads + counts.reloads == len(uses)
    assert counts.cold_loads == len(set(uses))
    assert counts.cold_bytes == sum(sizes[unit] for unit in set(uses))
    if name != "belady-bypass":
        assert counts.evictions == counts.cold_loads + counts.reloads - len(cache.resident)


@pytest.mark.parametrize(("count", "capacity"), [(5, 4), (7, 3), (11, 5), (13, 12)])
def test_closed_forms_on_a_cycle(count: int, capacity: int) -> None:
    passes = count  # the first is cold, then count - 1 warm ones, over which Belady's misses come round
    uses = [unit for _ in range(passes) for unit in range(count)]

    def share(name: str) -> Fraction:
        return Fraction(hits(name, uses, capacity, skip=count), len(uses) - count)

    assert share("lru") == share("fifo") == 0
    assert share("belady") == Fraction(capacity - 1, count - 1)
    assert share("belady-bypass") == Fraction(capacity, count)
    assert 0 <= share("random") <= share("belady")
    kept = Cache(capacity, Pinned(frozenset(range(capacity - 1))))
    found = walk(kept, [(unit, 1) for unit in uses])[count:]
    assert Fraction(found.count(Found.HIT), len(found)) == Fraction(capacity - 1, count)


@pytest.mark.parametrize("name", ["fifo", "lru", "lfu", "random"])
def test_everything_hits_once_it_fits(name: str) -> None:
    uses = list(range(7)) * 3
    assert hits(name, uses, 7) == 14


def test_units_in_use_never_leave_and_the_error_says_what_to_do() -> None:
    cache = Cache(5, Fifo())
    cache.use("a", 3)
    with pytest.raises(BudgetError, match="--prefetch-depth"):
        cache.use("b", 3, in_use=["a"])


def test_random_repeats_with_its_seed() -> None:
    uses = [unit for _ in range(9) for unit in range(7)]

    def found(seed: int) -> list[Found]:
        return walk(Cache(5, RandomChoice(seed)), [(unit, 1) for unit in uses])

    assert found(3) == found(3)
    assert any(found(seed) != found(3) for seed in range(9))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=8), st.integers(0, 60))
def test_the_knapsack_is_exact_for_small_cases(things: list[tuple[int, int]], capacity: int) -> None:
    values, sizes = [v for v, _ in things], [s for _, s in things]
    chosen = most_valuable(values, sizes, capacity)
    best = max(
        sum(values[i] for i in pick)
        for n in range(len(things) + 1)
        for pick in combinations(range(len(things)), n)
        if sum(sizes[i] for i in pick) <= capacity
    )
    assert sum(values[i] for i in chosen) == best
    assert sum(sizes[i] for i in chosen) <= capacity
