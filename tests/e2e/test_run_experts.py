"""Mixtures of experts: the bits of transformers' eager code for every budget, and every read counted."""

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tierline
from tierline.errors import BudgetError, FaultError
from tierline.place.cache import OnlinePolicyName
from tierline.run.experts.cache import ExpertCache
from tierline.run.experts.mixture import Mixture
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.testing.tiny import MIXTURES, write_mixture
from tierline.trace import TraceEvent

pytestmark = pytest.mark.usefixtures("brief_samples")
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])
REQUEST = Request("t3 t14 t15 t92 t65", new=12, raw=True, temperature=1.0, seed=5)
QUICK = ("mixtral", "qwen3_moe", "gpt_oss")
Visits = list[tuple[int, tuple[int, ...]]]


def nothing(*_: object) -> None:
    """Ignore progress and text."""


@pytest.fixture(
    scope="module",
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MIXTURES],
)
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("qwen3_moe"), "qwen3_moe")


def smallest(path: Path) -> int:
    with pytest.raises(BudgetError, match=r"for experts, and staging") as refused:
        tierline.load(path, resident=1, context=64)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


def test_every_family_equals_transformers_eager_bit_by_bit(
    mixture: Path, logits: Callable[[Path, int | None], torch.Tensor]
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        mixture, dtype=torch.bfloat16, experts_implementation="eager"
    )
    with torch.inference_mode():
        wide = theirs(input_ids=IDS, use_cache=True)
        narrow = theirs(input_ids=IDS[:, :1], past_key_values=wide.past_key_values)
    expected = torch.cat([wide.logits, narrow.logits], dim=1)
    least = smallest(mixture)
    for budget in (None, least, least + 60_013):
        assert torch.equal(logits(mixture, budget), expected)


@given(share=st.floats(0, 1))
@settings(max_examples=3)
def test_every_split_gives_the_bits_of_the_resident_model(
    qwen3: Path, logits: Callable[[Path, int | None], torch.Tensor], share: float
) -> None:
    budget = smallest(qwen3) + int(share * open_source(qwen3).checkpoint.footprint_bytes)
    assert torch.equal(logits(qwen3, budget), logits(qwen3, None))


class Oracle:
    """Counts what a cache of `slots` experts reads, by a few lines of its own."""

    def __init__(self, policy: str, slots: int, held: list[tuple[int, int]]) -> None:
        self.policy, self.slots, self.held = policy, slots, held  # in the order in which they came
        self.uses: Counter[tuple[int, int]] = Counter()
        self.misses: list[tuple[int, int]] = []
        self.hits = 0

    def visit(self, layer: int, chosen: tuple[int, ...]) -> None:
        keys = [(layer, expert) for expert in chosen]
        present = [key for key in keys if key in self.held]
        self.hits += len(present)
        for key in present:
            self.use(key)
        absent = [key for key in keys if key not in present]
        used = 0  # of what is lent, in order: hits, then misses as they were asked for
        lent = list(present)
        while absent:
            while absent and len(lent) - used < self.slots:
                key = absent.pop(0)
                self.use(key)
                self.misses.append(key)
                if len(self.held) == self.slots:
                    self.held.remove(self.victim(set(lent[used:])))
                self.held.append(key)
                lent.append(key)
            used += 1

    def use(self, key: tuple[int, int]) -> None:
        self.uses[key] += 1
        if self.policy == "lru" and key in self.held:
            self.held.remove(key)
            self.held.append(key)

    def victim(self, kept: set[tuple[int, int]]) -> tuple[int, int]:
        free = [key for key in self.held if key not in kept]
        return min(free, key=lambda key: self.uses[key]) if self.policy == "lfu" else free[0]


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    """Keep what every router chose."""
    kept: Visits = []
    real = ExpertCache.visit

    def noted(self: ExpertCache, layer: int, chosen: list[int]) -> Iterator[object]:
        kept.append((layer, tuple(chosen)))
        return real(self, layer, chosen)

    monkeypatch.setattr(ExpertCache, "visit", noted)
    return kept


@pytest.mark.parametrize(("policy", "slots"), [("lfu", 3), ("lfu", 17), ("lru", 17), ("fifo", 9)])
def test_bytes_read_are_those_of_the_routing_that_happened(
    qwen3: Path, visits: Visits, monkeypatch: pytest.MonkeyPatch, policy: OnlinePolicyName, slots: int
) -> None:
    least = smallest(qwen3)
    with Session(open_source(qwen3), resident=least, memory=None, keep_events=True) as session:
        monkeypatch.setattr(session.engine.experts, "_policy", policy)
        experts = session.engine.experts
        slot_bytes = experts.least_bytes // 2
        session.engine._resident = least + 60_000 + (slots - 2) * slot_bytes
        prepared = session.prepare(REQUEST, nothing)
        cache = experts.cache
        assert cache is not None
        assert cache.slots + cache.guesses >= slots
        oracle = Oracle(policy, cache.slots, [(k[0], k[1]) for k in _resident(cache)])
        visits.clear()
        report = session.execute(prepared, nothing)
        events = list(session.events)
    for layer, chosen in visits:
        oracle.visit(layer, chosen)
    counts = cache.counts
    assert (counts.hits, counts.cold_loads + counts.reloads) == (oracle.hits, len(oracle.misses))
    # A tiny expert is three matrices of 3,840 B that follow one another: one read, in sectors of 512 B.
    spans = [_span_bytes(experts, key) for key in oracle.misses]
    assert cache.meter.read_bytes == sum(spans)
    read = [e for e in events if e.activity == "read" and e.resource.startswith("expert")]
    assert sum(e.traffic_bytes for e in read) == cache.meter.read_bytes + cache.meter.wasted_bytes
    assert _named(events, "hit") == oracle.hits
    assert _named(events, "miss") == len(oracle.misses)
    assert report.experts is not None
    assert report.experts.hits_per_token + report.experts.misses_per_token == 3 * 3


def _resident(cache: ExpertCache) -> list[tuple[int, int]]:
    return [key for key in cache._cache.resident if isinstance(key, tuple)]


def _span_bytes(experts: Mixture, key: tuple[int, int]) -> int:
    tensors = experts.layers[key[0]].experts[key[1]].tensors
    start = min(t.offset for t in tensors) // 512 * 512
    stop = max(t.offset + t.footprint_bytes for t in tensors)
    assert stop - min(t.offset for t in tensors) == 3 * 40 * 48 * 2
    return -(-stop // 512) * 512 - start


def _named(events: list[TraceEvent], activity: str) -> int:
    return sum(e.activity == activity and e.resource == "experts" for e in events)


def test_attention_routers_and_heads_are_pinned_before_experts(qwen3: Path) -> None:
    least = smallest(qwen3)
    for more in (20_011, 50_021, 90_001, 130_003):
        with tierline.load(qwen3, resident=least + more, context=32) as model:
            plan, experts = model._engine.weights.plan, model._engine.experts
            if experts.cache.slots > 3:
                assert not plan.placement.streamed
            assert plan.held_bytes <= least + more
            assert experts.cache.slots * experts.cache.slot_bytes <= plan.needs.experts_bytes


def test_a_read_of_an_expert_that_fails_names_it_and_ends_the_run(
    qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, arrived = os.preadv, list[str]()

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if len(arrived) >= 3 and len(buffers[0]) > 8192:  # a row of the embedding is less, an expert more
            raise OSError(errno.EIO, "Input/output error")
        return working(descriptor, buffers, offset)

    before = threading.active_count()
    with Session(open_source(qwen3), resident=smallest(qwen3) + 60_000, memory=None) as session:
        prepared = session.prepare(REQUEST, nothing)
        monkeypatch.setattr(os, "preadv", failing)
        with pytest.raises(FaultError, match=r"reading model\.layers\.\d\.mlp\.experts\[\d\] at offset"):
            session.execute(prepared, arrived.append)
        assert 0 < len(session.partial.token_ids) < REQUEST.new
    assert threading.active_count() == before


def test_the_same_tokens_streamed_and_resident(qwen3: Path) -> None:
    def tokens(resident: int | None) -> tuple[int, ...]:
        with Session(open_source(qwen3), resident=resident, memory=None) as session:
            return session.answer(REQUEST, progress=nothing, emit=nothing).token_ids

    assert tokens(smallest(qwen3) + 40_009) == tokens(None)
