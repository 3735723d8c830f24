"""Tokens per second of prompts and of decode, repeated: the two tests that llama-bench made usual."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev

import torch

from tierline.run.predict import Prediction
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.room import Room
from tierline.run.session import Session
from tierline.run.weights import Progress

Tell = Callable[[str], None]  # which repetition begins
_SOME_TOKEN = 1


@dataclass(frozen=True, slots=True)
class Series:
    """One test: `tokens` at once (`pp`) or one after another (`tg`), the rate of each repetition in tok/s."""

    name: str
    tokens: int
    samples: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """The mean over the repetitions."""
        return fmean(self.samples)

    @property
    def spread_tokens_per_s(self) -> float:
        """The standard deviation over the repetitions, 0 for a single one."""
        return stdev(self.samples) if len(self.samples) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured, what was predicted of decode, and where the bytes were."""

    model: str
    weights_bytes: int
    parameters: int
    threads: int
    series: tuple[Series, ...]
    prediction: Prediction
    pinned_bytes: int
    streamed_bytes: int
    read_bytes_per_token: float
    allowed_bytes: int | None
    measured_bytes: int


def benchmark(
    session: Session, *, prompt_tokens: int, new: int, repetitions: int, progress: Progress, tell: Tell
) -> Benchmark:
    """Load the model and return the rates of prompts of `prompt_tokens` and of decoding `new` tokens.

    A first, short pass warms up. A prompt's time ends with the token after it; decode begins with one token
    of prompt, and its time with the first token generated. Raises as `Session.answer` does.
    """
    prediction = session.load(Room(prompt_tokens, new + 1), progress)
    engine = session.engine
    assert engine.weights is not None  # noqa: S101 - it is loaded
    tell("warming up")
    _arrivals(session, 1, 2)
    reset_peak()
    prompts, decodes, read_bytes = [], [], 0
    for i in range(repetitions):
        tell(f"pp{prompt_tokens}, {i + 1} of {repetitions}")
        started_s = time.perf_counter()
        prompts.append(prompt_tokens / (_arrivals(session, prompt_tokens, 1)[0] - started_s))
    for i in range(repetitions):
        tell(f"tg{new}, {i + 1} of {repetitions}")
        before = engine.measured().read_bytes
        arrived_s = _arrivals(session, 1, new + 1)
        read_bytes += engine.measured().read_bytes - before
        decodes.append(new / (arrived_s[-1] - arrived_s[0]))
    source, placement = engine.source, engine.weights.plan.placement
    return Benchmark(
        model=source.path.name,
        weights_bytes=sum(t.footprint_bytes for t in source.checkpoint.tensors.values()),
        parameters=source.model.parameters,
        threads=torch.get_num_threads(),
        series=(
            Series(f"pp{prompt_tokens}", prompt_tokens, tuple(prompts)),
            Series(f"tg{new}", new, tuple(decodes)),
        ),
        prediction=prediction,
        pinned_bytes=placement.pinned_bytes + engine.weights.plan.needs.fixed_bytes,
        streamed_bytes=engine.weights.plan.read_bytes,
        read_bytes_per_token=read_bytes / (repetitions * (new + 1)),
        allowed_bytes=engine.allowed_bytes,
        measured_bytes=peak_resident_bytes(),
    )


class _Stamps:
    """A streamer that notes when tokens come; the prompt comes first and is none."""

    def __init__(self) -> None:
        self.arrived_s: list[float] = []
        self._prompt_seen = False

    def put(self, _: torch.Tensor) -> None:
        """Note a token."""
        if self._prompt_seen:
            self.arrived_s.append(time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do."""


def _arrivals(session: Session, prompt_tokens: int, new: int) -> list[float]:
    """Return when each of `new` tokens came, after a prompt of one token repeated, whatever they are."""
    stamps = _Stamps()
    ids = torch.full((1, prompt_tokens), _SOME_TOKEN)
    with torch.inference_mode():
        session.engine.model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            streamer=stamps,
            past_key_values=session.engine.new_cache(),
        )
    return stamps.arrived_s
