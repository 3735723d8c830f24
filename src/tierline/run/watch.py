"""How a run stands while it goes: its meters, read from beside it."""

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tierline.live import LinkNow, RunNow, Stage, TierNow
from tierline.run.process_memory import resident_bytes

if TYPE_CHECKING:
    from tierline.run.predict import Prediction
    from tierline.run.session import Session

_WINDOW_S = 3.0
_MOST_PASSES = 16


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    read_bytes: int
    stall_s: float


class Watch:
    """Reads the meters of one session; rates are those of the last seconds."""

    def __init__(self, session: "Session", run: str, most_tokens: int) -> None:
        """`run` is what the run is called, `most_tokens` what it was asked for."""
        self._session, self._run, self._most_tokens = session, run, most_tokens
        self._prediction: Prediction | None = None
        self._sequences = 1
        self._started_s = time.monotonic()
        self._samples: deque[_Sample] = deque()

    def begin(self, prediction: "Prediction", sequences: int = 1) -> None:
        """Count from now on: the model is loaded; a step of so many sequences is predicted."""
        self._prediction, self._sequences = prediction, sequences
        self._started_s = time.monotonic()
        self._samples.clear()
        self._sample()  # even an answer shorter than the first interval has rates

    @property
    def text(self) -> str:
        """What has been answered so far."""
        return self._session.partial.text

    def now(self, stage: Stage) -> RunNow:
        """Return how the run stands; `loading` has no rates."""
        answer, planned = self._session.partial, self._prediction
        last, first = self._sample(), self._samples[0]
        passed_s = last.at_s - first.at_s
        link = LinkNow(
            "disk" if planned is None else planned.link,
            last.read_bytes,
            max(0, last.read_bytes - first.read_bytes) / passed_s if passed_s else 0.0,
            None if planned is None else planned.read_bytes_per_s,
        )
        return RunNow(
            run=self._run,
            model=self._session.engine.source.path.name,
            stage=stage,
            updated_s=time.time(),
            elapsed_s=last.at_s - self._started_s,
            tokens=len(answer.token_ids),
            most_tokens=self._most_tokens,
            tokens_per_s=_recent_rate(answer.arrived_s, answer.pass_tokens),
            predicted_tokens_per_s=None if planned is None else self._sequences * planned.tokens_per_s,
            stall_s=last.stall_s,
            stall_fraction=_share(last.stall_s - first.stall_s, passed_s),
            tiers=tuple(self._tiers()),
            links=(link,),
        )

    def _sample(self) -> _Sample:
        """Read the meters, and forget what is older than the window."""
        read = self._session.engine.measured()
        last = _Sample(time.monotonic(), read.read_bytes, read.stall_s)
        samples = self._samples
        samples.append(last)
        while len(samples) > 2 and last.at_s - samples[1].at_s > _WINDOW_S:
            samples.popleft()
        return last

    def _tiers(self) -> list[TierNow]:
        engine = self._session.engine
        tiers = [TierNow("dram: process", resident_bytes(), engine.allowed_bytes)]
        if engine.weights is not None:
            ledger, placement = engine.weights.ledger, engine.weights.plan.placement
            tiers.append(TierNow("dram: weights", ledger.held_bytes, ledger.allowed_bytes))
            if placement.streamed_bytes:
                tiers.append(TierNow("disk: streamed", placement.streamed_bytes, None))
        return tiers


def _share(part_s: float, whole_s: float) -> float | None:
    """Return which share of `whole_s` a part is, counters that began anew meanwhile counted as 0."""
    return min(1.0, max(0.0, part_s / whole_s)) if whole_s > 0 else None


def _recent_rate(arrived_s: list[float], pass_tokens: list[int]) -> float | None:
    """Return tokens per second of the last passes; None before there are two."""
    count = min(len(arrived_s), len(pass_tokens))
    first = max(0, count - _MOST_PASSES)
    if count - first < 2:
        return None
    passed_s = arrived_s[count - 1] - arrived_s[first]
    return sum(pass_tokens[first + 1 : count]) / passed_s if passed_s > 0 else None
