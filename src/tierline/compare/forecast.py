"""What a loaded run will do, fixed before it begins: by the plan's formula, and event by event."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tierline.compare.passes import DISK, DiskBefore, LinkRate, Workload, passes_of, pipeline_of
from tierline.run.predict import Prediction
from tierline.run.room import CHUNK_TOKENS
from tierline.run.session import Prepared, Session
from tierline.run.staging import READERS
from tierline.run.weights import WeightPlan
from tierline.sim.events import timeline_events
from tierline.sim.measure import merged
from tierline.sim.pipeline import Pass, Timeline, run
from tierline.trace import TraceEvent

_MOST_STEPS = 200_000  # decode passes are alike: more of them would say nothing new
_FEWEST_PASSES = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """One column of a comparison. Fractions are of decode time; None is not known or does not apply.

    `prompt_read_bytes` are of a prompt with images, for which no time to the first token is predicted: what
    looking at them computes is not timed beforehand.
    """

    first_token_s: float | None
    tokens_per_s: float | None
    read_bytes_per_token: float | None
    link_busy_fraction: float | None
    stall_fraction: float | None
    peak_bytes: float | None
    host_read_bytes_per_token: float | None = None
    prompt_read_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Both predictions, the link they are for, and the simulated timeline as trace events."""

    link: str
    planned: Figures
    simulated: Figures
    passes: tuple[Pass, ...]
    timeline: Timeline

    @property
    def events(self) -> tuple[TraceEvent, ...]:
        """The simulated run as trace events."""
        return tuple(timeline_events(self.passes, self.timeline))


def workload(session: Session, prepared: Prepared) -> Workload:
    """Return the work of a run that was prepared, with the times of its compute: nothing has run yet."""
    weights, tokens = session.engine.weights, prepared.ids.shape[1]
    assert weights is not None  # noqa: S101 - preparing has loaded them
    prediction, steps = prepared.prediction, prepared.request.new - 1
    return Workload(
        prompt_tokens=tokens,
        prefill_passes=-(-tokens // CHUNK_TOKENS),
        decode_passes=min(steps, max(_FEWEST_PASSES, _MOST_STEPS // (len(weights.plan.tiles) + 1))),
        prefill_s=session.engine.prompt_s(tokens),
        decode_s=prediction.compute_s,
        cache_read_bytes=session.engine.cache_read_bytes,
        prefill_routed=session.engine.prompt_routed(tokens),
        decode_routed=prediction.routed,
    )


def predict(plan: WeightPlan, work: Workload, prediction: Prediction) -> Forecast:
    """Return both predictions of `work` on the engine's own placement: pure, in virtual time."""
    link = link_of(prediction)
    passes = tuple(passes_of(plan, work, link))
    guess_bytes = 0 if work.decode_routed is None else work.decode_routed.guess_bytes
    timeline = run(pipeline_of(plan, link, guess_bytes), passes)
    planned = _planned(plan, work, prediction)
    simulated = _simulated(passes, timeline, work, prediction.peak_bytes)
    if prediction.prompt_read_bytes is not None:
        planned = replace(planned, first_token_s=None, prompt_read_bytes=prediction.prompt_read_bytes)
        simulated = replace(simulated, first_token_s=None)
    return Forecast(
        link=prediction.link,
        planned=planned,
        simulated=simulated,
        passes=passes,
        timeline=timeline,
    )


def link_of(prediction: Prediction) -> LinkRate | None:
    """Return the link of a run: the disk as measured, or another machine's; None where nothing is read."""
    if prediction.read_bytes_per_s is None:
        return None
    pace = prediction.pace
    if pace is None:
        each = prediction.read_bytes_per_s / prediction.links
        return LinkRate(prediction.link, each, count=prediction.links)
    host, disk = prediction.host, None
    if host is not None and host.bytes_per_s is not None:
        disk = DiskBefore(host.reads, host.bytes_per_s, READERS)
    return LinkRate(pace.link, pace.bytes_per_s, pace.latency_s, prediction.links, disk)


def _planned(plan: WeightPlan, work: Workload, prediction: Prediction) -> Figures:
    """Return the plan's formula, `max(compute, bytes / rate)`, for the prompt and for a token."""
    step_s = prediction.step_s
    pass_bytes = sum(plan.tile_read_bytes)
    prompt_bytes = work.prefill_passes * pass_bytes + work.prompt_tokens * plan.row_read_bytes
    if work.prefill_routed is not None:
        prompt_bytes += round(work.prefill_passes * work.prefill_routed.read_bytes)
    prompt_bytes -= min(pass_bytes, plan.placement.staging_bytes)  # was read ahead
    rate = prediction.read_bytes_per_s
    return Figures(
        first_token_s=max(work.prefill_s, prompt_bytes / rate if rate else 0.0),
        tokens_per_s=prediction.tokens_per_s,
        read_bytes_per_token=prediction.read_bytes,
        link_busy_fraction=max(prediction.link_s, prediction.host_s) / step_s,
        stall_fraction=1 - prediction.compute_s / step_s,
        peak_bytes=prediction.peak_bytes,
        host_read_bytes_per_token=None if prediction.host is None else prediction.host.read_bytes,
    )


def _simulated(passes: Sequence[Pass], timeline: Timeline, work: Workload, peak_bytes: int) -> Figures:
    """Return what the timeline shows; memory is what the engine will allocate, which no event changes."""
    first = sum(len(p.work) for p in passes[: work.prefill_passes])
    first_token_s, last_s = timeline.ends[first - 1], timeline.ends[-1]
    decode_s = last_s - first_token_s
    if not decode_s:
        return Figures(first_token_s, None, None, None, None, peak_bytes)
    decode = [t for t in timeline.transfers if t.step >= first]
    moved = sum(t.fetch.traffic_bytes for t in decode if len(t.fetch.path) == 1 or t.link != DISK)
    from_disk = sum(t.fetch.traffic_bytes for t in decode if len(t.fetch.path) > 1 and t.link == DISK)
    busy = merged(
        (max(t.start, first_token_s), min(t.end, last_s))
        for t in timeline.transfers
        if t.end > first_token_s and t.start < last_s
    )
    turns = pairwise([*timeline.ends[first - 1 :]])
    waited = sum(start - before for start, (before, _) in zip(timeline.starts[first:], turns, strict=True))
    return Figures(
        first_token_s=first_token_s,
        tokens_per_s=work.decode_passes / decode_s,
        read_bytes_per_token=moved / work.decode_passes,
        link_busy_fraction=sum(b - a for a, b in busy) / decode_s,
        stall_fraction=waited / decode_s,
        peak_bytes=peak_bytes,
        host_read_bytes_per_token=from_disk / work.decode_passes,
    )
