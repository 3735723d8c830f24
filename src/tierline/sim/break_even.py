"""Where a result would change: the link rate that makes streaming as good as resident, and others."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tierline.errors import TierlineError
from tierline.sim.demand import PassDemand
from tierline.sim.pipeline import Pass, Pipeline, run
from tierline.sim.schedule import PassPlan
from tierline.sim.simulate import SimResult, simulate

_MOST_RATE = 1e15
_PASSES = 3
_WITHIN = 1.01
_PRECISION = 1.001


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Answers about the main phase's last pass; None where no value does it or nothing is streamed.

    `resident_rate_bytes_per_s` of `link` is the least at which streaming is within 1 % of everything resident
    (in a fast tier large enough), `wanted_rate_bytes_per_s` the least for the tokens per second asked for.
    `no_reload_capacity_bytes` is the least for weights at which nothing is fetched twice.
    """

    link: str | None
    streaming: str
    resident_pass_s: float
    resident_rate_bytes_per_s: float | None
    wanted_tokens_per_s: float | None
    wanted_rate_bytes_per_s: float | None
    no_reload_capacity_bytes: int


@dataclass(frozen=True, slots=True)
class StreamedPass:
    """The last pass of a main phase, to be executed again at other rates of the slowest `link` that it uses.

    `link_bytes` cross that link in a pass, which makes `tokens`; `strategy` is how they are streamed.
    """

    link: str
    strategy: str
    tokens: float
    link_bytes: int
    pipeline: Pipeline
    steps: Pass

    @property
    def rate_bytes_per_s(self) -> float:
        """The link's own rate."""
        rate: float = self.pipeline.links[self.link].rate
        return rate

    def time_s(self, rate_bytes_per_s: float) -> float:
        """Return what a pass takes, others like it before it, if the link had this rate."""
        links = {**self.pipeline.links}
        links[self.link] = replace(links[self.link], rate=rate_bytes_per_s)
        ends = run(replace(self.pipeline, links=links), [self.steps] * _PASSES).ends
        return float(ends[-1] - ends[-1 - len(self.steps.work)])


def break_even(result: SimResult, wanted_tokens_per_s: float | None = None) -> BreakEven:
    """Return the break-even points of a simulation, or where it streams nothing of streaming everything."""
    streamed = streamed_pass(result)
    capacity = result.schedule.whole_bytes
    resident_s = resident_pass_s(result)
    if streamed is None:
        return BreakEven(None, "", resident_s, None, wanted_tokens_per_s, None, capacity)
    wanted = None
    if wanted_tokens_per_s is not None and streamed.tokens:
        wanted = _least(streamed.time_s, streamed.tokens / wanted_tokens_per_s, streamed.link_bytes)
    return BreakEven(
        streamed.link,
        streamed.strategy,
        resident_s,
        _least(streamed.time_s, resident_s * _WITHIN, streamed.link_bytes),
        wanted_tokens_per_s,
        wanted,
        capacity,
    )


def streamed_pass(result: SimResult) -> StreamedPass | None:
    """Return the last pass of the main phase as it streams, or as it would if every weight were streamed.

    None where there is no streaming to speak of.
    """
    streaming = _streaming(result)
    if streaming is None:
        return None
    pipeline, last = streaming.pipeline, _last(streaming)
    fetches = [f for f in last.steps.fetches if f is not None]
    paths = {name for f in fetches if f.cause != "rows" for name in f.path}
    link = min(paths & set(pipeline.links), key=lambda name: pipeline.links[name].rate)
    crossing = sum(f.traffic_bytes for f in fetches if link in f.path)
    return StreamedPass(link, streaming.strategy, last.demand.tokens, crossing, pipeline, last.steps)


def _streaming(result: SimResult) -> SimResult | None:
    """Return the result itself if its last pass fetches, else that of streaming every weight."""
    if any(f is not None and f.cause != "rows" for f in _last(result).steps.fetches):
        return result
    options = replace(
        result.options, strategy="host-stream", phase_strategies={}, policy=None, phases=(result.main.name,)
    )
    try:
        return simulate(result.plan, options)
    except TierlineError:  # no other tier, or no room for the slots: there is no streaming to speak of
        return None


def _last(result: SimResult) -> PassPlan:
    return [p for p in result.schedule.passes if p.demand.phase == result.main.name][-1]


def resident_pass_s(result: SimResult) -> float:
    """Return what the last pass takes with every byte in the fast tier."""
    traversal: PassDemand = _last(result).demand
    rates = result.rates
    return traversal.draft_s + sum(
        rates.work_s(
            t.flop,
            sum(r.traffic_bytes for r in t.reads) + t.kv_read_bytes + t.kv_write_bytes + t.activation_bytes,
        )
        for t in traversal.turns
    )


def _least(pass_s: Callable[[float], float], wanted_s: float, bytes_per_pass: int) -> float | None:
    """Return the least rate at which a pass takes no longer than `wanted_s`, to a thousandth.

    No rate below `bytes / wanted_s` can do; from there it is doubled until one does, then bisected.
    """
    if not wanted_s or pass_s(_MOST_RATE) > wanted_s:
        return None
    high = low = bytes_per_pass / wanted_s
    while pass_s(high) > wanted_s:
        low, high = high, 2 * high
    while high > low * _PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if pass_s(middle) <= wanted_s else (middle, high)
    return high
