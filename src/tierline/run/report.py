"""What a run took, and how that compares with what was predicted."""

from dataclasses import dataclass

from tierline.run.generate import Answer
from tierline.run.meter import Reading
from tierline.run.predict import Prediction
from tierline.run.weights import Weights


@dataclass(frozen=True, slots=True)
class RunReport:
    """A finished run. Rates over decode are from the first generated token to the last.

    `read_bytes_per_s` is while the link is busy; None where nothing was read, or too few tokens came to tell.
    `link_busy_fraction` is the part of decode in which a read was outstanding, `stall_fraction` that in which
    compute waited for one. `prompt_read_bytes` is what was read up to the first token. Of a memory budget
    there are four numbers: allowed (None without --memory), reserved (the process without weights), projected
    before and measured after (the high-water mark of resident memory). `tokens_per_pass` is more than 1 where
    guessed tokens were right; `closest_choice` is then the generated token with the least distance between
    its logit and the next, and that distance: a pass of one row may round it to another.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens_per_s_steady: float | None
    tokens_per_pass: float | None
    time_to_first_token_s: float | None
    read_bytes_per_token: float | None
    prompt_read_bytes: int | None
    read_bytes_per_s: float | None
    stall_s_per_token: float | None
    weights_pinned_bytes: int
    weights_streamed_bytes: int
    weights_resident_peak_bytes: int
    allowed_bytes: int | None
    reserved_bytes: int
    projected_bytes: int
    measured_bytes: int
    link_busy_fraction: float | None
    stall_fraction: float | None
    closest_choice: tuple[int, float] | None
    experts: "RoutedExperts | None"
    prediction: Prediction
    host_read_bytes_per_token: float | None = None

    @property
    def rows(self) -> tuple["Comparison", ...]:
        """The quantities that were planned, beside what was measured."""
        planned = self.prediction
        link = Comparison(f"{planned.link} link rate", "B/s", planned.read_bytes_per_s, self.read_bytes_per_s)
        memory = Comparison("peak memory", "B", planned.peak_bytes, self.measured_bytes)
        if planned.prompt_read_bytes is not None:  # what looks at images is read for the prompt alone
            prompt = Comparison(
                "bytes read for the prompt", "B", planned.prompt_read_bytes, self.prompt_read_bytes
            )
            return (prompt, *self._decode_rows(link, memory))
        return self._decode_rows(link, memory)

    def _decode_rows(self, link: "Comparison", memory: "Comparison") -> tuple["Comparison", ...]:
        planned = self.prediction
        if planned.rows == 1:
            return (
                Comparison("bytes read per token", "B", planned.read_bytes, self.read_bytes_per_token),
                link,
                Comparison("decode rate", "tok/s", planned.tokens_per_s, self.tokens_per_s_steady),
                memory,
            )
        # How many guesses are right is known only afterwards; what a pass takes is known before.
        tokens, rate, read = self.tokens_per_pass, self.tokens_per_s_steady, self.read_bytes_per_token
        return (
            Comparison("bytes read per pass", "B", planned.read_bytes, read and tokens and read * tokens),
            link,
            Comparison("passes", "/s", planned.tokens_per_s, rate and tokens and rate / tokens),
            Comparison("tokens per pass", "", None, tokens),
            Comparison("decode rate", "tok/s", None, rate),
            memory,
        )


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """Experts that a token visited while decoding, on average: in memory, or read and in how many bytes.

    `wasted_read_bytes_per_token` were read ahead on guesses that turned out wrong, beside those of misses.
    `cache_bytes` is the memory of experts.
    """

    hits_per_token: float
    misses_per_token: float
    read_bytes_per_token: float
    wasted_read_bytes_per_token: float
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity, planned and measured, in `unit`; None where it does not apply or is not known."""

    quantity: str
    unit: str
    planned: float | None
    measured: float | None

    @property
    def error_fraction(self) -> float | None:
        """(planned - measured) / measured."""
        if self.planned is None or not self.measured:
            return 0.0 if self.planned == self.measured == 0 else None
        return (self.planned - self.measured) / self.measured


def make_report(
    answer: Answer,
    weights: Weights,
    prediction: Prediction,
    *,
    allowed_bytes: int | None,
    reserved_bytes: int,
    measured_bytes: int,
) -> RunReport:
    """Return the report of a run that has come to its end."""
    passes = len(answer.arrived_s) - 1
    steps = sum(answer.pass_tokens[1:])  # tokens after the first pass, which the prompt's took
    decode_s = answer.arrived_s[-1] - answer.arrived_s[0] if steps > 0 else None
    first, last = (answer.readings[0], answer.readings[-1]) if steps > 0 else (Reading(), Reading())
    stall_s, busy_s = last.stall_s - first.stall_s, last.link_busy_s - first.link_busy_s
    return RunReport(
        text=answer.text,
        token_ids=tuple(answer.token_ids),
        tokens_per_s_steady=steps / decode_s if decode_s else None,
        tokens_per_pass=steps / passes if passes > 0 else None,
        time_to_first_token_s=answer.arrived_s[0] if answer.arrived_s else None,
        read_bytes_per_token=(last.read_bytes - first.read_bytes) / steps if steps > 0 else None,
        prompt_read_bytes=answer.readings[0].read_bytes - answer.before.read_bytes
        if answer.readings
        else None,
        read_bytes_per_s=_link_rate(weights, last.read_bytes - first.read_bytes, busy_s),
        stall_s_per_token=stall_s / steps if steps > 0 else None,
        weights_pinned_bytes=weights.plan.placement.pinned_bytes + weights.plan.needs.fixed_bytes,
        weights_streamed_bytes=weights.plan.read_bytes,
        weights_resident_peak_bytes=weights.ledger.peak_bytes,
        allowed_bytes=allowed_bytes,
        reserved_bytes=reserved_bytes,
        projected_bytes=prediction.peak_bytes,
        measured_bytes=measured_bytes,
        link_busy_fraction=busy_s / decode_s if decode_s else None,
        stall_fraction=stall_s / decode_s if decode_s else None,
        closest_choice=None if answer.margins is None else answer.margins.least(len(answer.token_ids)),
        experts=_experts(weights.plan.needs.experts_bytes, first, last, steps),
        prediction=prediction,
        host_read_bytes_per_token=_host_bytes(prediction, first, last, steps),
    )


def _host_bytes(prediction: Prediction, first: Reading, last: Reading, steps: int) -> float | None:
    if prediction.host is None or steps <= 0:
        return None
    return (last.host_read_bytes - first.host_read_bytes) / steps


def _experts(cache_bytes: int, first: Reading, last: Reading, steps: int) -> RoutedExperts | None:
    if not (cache_bytes and steps > 0):
        return None
    return RoutedExperts(
        hits_per_token=(last.expert_hits - first.expert_hits) / steps,
        misses_per_token=(last.expert_misses - first.expert_misses) / steps,
        read_bytes_per_token=(last.expert_read_bytes - first.expert_read_bytes) / steps,
        wasted_read_bytes_per_token=(last.wasted_read_bytes - first.wasted_read_bytes) / steps,
        cache_bytes=cache_bytes,
    )


def _link_rate(weights: Weights, decode_bytes: int, decode_busy_s: float) -> float | None:
    """Return the rate of the link while it is busy: over the whole run, or while decoding without staging."""
    if weights.staging is None:
        return decode_bytes / decode_busy_s if decode_busy_s else None
    busy_s = weights.staging.busy_s()
    return weights.staging.meter.read_bytes / busy_s if busy_s else None
