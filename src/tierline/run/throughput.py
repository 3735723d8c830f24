"""Many prompts at once: one pass over the streamed weights serves as many sequences as the budget holds."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers.generation.streamers import BaseStreamer

from tierline.run.batch import end_tokens, left_padded, pad_token
from tierline.run.generate import Answer, chat_ids, prompt_ids
from tierline.run.images.expected import expect_alike
from tierline.run.images.files import read_image
from tierline.run.images.prompt import Turn
from tierline.run.meter import Reading
from tierline.run.predict import Prediction
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.prompts import Answers, Prompt
from tierline.run.report import Comparison
from tierline.run.request import Request
from tierline.run.room import Room
from tierline.run.session import Session
from tierline.run.weights import Progress

MOST_SEQUENCES = 256
_SAMPLE = 4  # sequences whose room is measured, beside that of one, to tell what each takes


@dataclass(frozen=True, slots=True)
class Served:
    """What answering a file of prompts took; rates and bytes are over decode passes, prefill left out.

    `tokens` counts those of answers, the first of each not: it comes of the prefill.
    """

    sequences: int
    done_before: int
    batch: int
    passes: int
    tokens: int
    decode_s: float
    total_s: float
    read_bytes: int
    stall_s: float
    allowed_bytes: int | None
    reserved_bytes: int
    measured_bytes: int
    prediction: Prediction | None

    @property
    def tokens_per_s(self) -> float | None:
        """Decode rate of all sequences together."""
        return self.tokens / self.decode_s if self.decode_s and self.tokens else None

    @property
    def rows(self) -> tuple[Comparison, ...]:
        """What was planned for full batches, beside what was measured."""
        if self.prediction is None or not self.passes:
            return ()
        planned, passes = self.prediction, self.passes
        return (
            Comparison("bytes read per pass", "B", planned.read_bytes, self.read_bytes / passes),
            Comparison("passes", "/s", planned.tokens_per_s, passes / self.decode_s),
            Comparison("tokens per pass", "", self.batch, self.tokens / passes),
            Comparison("decode rate", "tok/s", self.batch * planned.tokens_per_s, self.tokens_per_s),
            Comparison("peak memory", "B", planned.peak_bytes, self.measured_bytes),
        )


OnPlanned = Callable[[int, Prediction], None]  # sequences to a pass, and what is predicted of one
OnServed = Callable[[int, int, float], None]  # sequences answered, sequences in all, tokens per second


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its token ids; `pixels` are the numbers that looking at its images computes with."""

    prompt: Prompt
    ids: list[int]
    pixels: int = 0


@dataclass(slots=True)
class _Totals:
    passes: int = 0
    tokens: int = 0
    decode_s: float = 0.0
    read_bytes: int = 0
    stall_s: float = 0.0


def serve_prompts(
    session: Session,
    prompts: Sequence[Prompt],
    answers: Answers,
    request: Request,
    *,
    batch: int | None,
    progress: Progress,
    planned: OnPlanned,
    served: OnServed,
) -> Served:
    """Answer what `answers` does not hold yet, longest prompts first, and return what it took.

    Every sequence is answered as `request` says (its text aside). `batch` is how many run together, by
    default as many as the budget has room for. Raises BudgetError and FaultError; what was answered stays.
    """
    started_s, before = time.perf_counter(), len(answers.done)
    session.partial = Answer()
    waiting = sorted(
        (_asked(session, prompt, request) for prompt in prompts if prompt.index not in answers.done),
        key=lambda asked: -len(asked.ids),
    )
    totals, prediction, size = _Totals(), None, 0
    if waiting:
        room = Room(prompt_tokens=len(waiting[0].ids), new=request.new, kv=session.kv)
        widest = max(waiting, key=lambda asked: asked.pixels)
        size = min(len(waiting), batch or most_sequences(session, room, widest))
        with _rehearsed(session, replace(room, batch=size), widest) as seen:
            prediction = session.load(seen, progress)
        planned(size, prediction)
        reset_peak()
    for start in range(0, len(waiting), max(1, size)):
        group = waiting[start : start + size]
        found = _answer(session, group, request, totals)
        answers.write([(a.prompt, _answer_fields(session, ids)) for a, ids in zip(group, found, strict=True)])
        served(start + len(group), len(waiting), totals.tokens / totals.decode_s if totals.decode_s else 0.0)
    return Served(
        len(waiting), before, size, totals.passes, totals.tokens, totals.decode_s,
        time.perf_counter() - started_s, totals.read_bytes, totals.stall_s,
        session.engine.allowed_bytes, session.engine.reserved_bytes, peak_resident_bytes(), prediction,
    )  # fmt: skip


def most_sequences(session: Session, room: Room, widest: Asked | None = None) -> int:
    """Return how many sequences like the one of `room` the budget has room for, at least 1.

    What each takes (its cache and activations) is measured on a few, each with the images of the `widest`;
    the rest of the budget is divided by it.
    """

    def spare_bytes(sequences: int) -> int:
        with _rehearsed(session, replace(room, batch=sequences), widest) as seen:
            return session.engine.spare_bytes(seen)

    spare, fewer = spare_bytes(1), spare_bytes(_SAMPLE)
    each = (spare - fewer) / (_SAMPLE - 1)
    return max(1, min(MOST_SEQUENCES, 1 + int(spare // each) if each > 0 else MOST_SEQUENCES))


@contextmanager
def _rehearsed(session: Session, room: Room, widest: Asked | None) -> Iterator[Room]:
    """Lend `room` with prompts like the `widest` to rehearse with, and hold what making it ready takes."""
    if widest is None or not widest.prompt.images:
        yield room
        return
    ids = torch.tensor([widest.ids])
    expected = expect_alike(session.looker, ids, widest.prompt.images, room.batch)
    with expected.held():
        yield expected.room(session.looker, room)


def _asked(session: Session, prompt: Prompt, request: Request) -> Asked:
    if not prompt.images:
        return Asked(prompt, _ids(session, prompt, request))
    looker = session.looker
    looked = looker.look([read_image(path) for path in prompt.images])
    if request.raw or not session.tokenizer.chat_template:
        ids = looker.raw_ids(prompt.text, looked.texts)
    else:
        *before, last = prompt.turns
        turns = [Turn(turn["role"], turn["content"]) for turn in before]
        ids = looker.turn_ids([*turns, Turn(last["role"], last["content"], looked.texts)])
    return Asked(prompt, session.checked(ids, request)[0].tolist(), looked.pixels)


def _ids(session: Session, prompt: Prompt, request: Request) -> list[int]:
    tokenizer = session.tokenizer
    if request.raw or not tokenizer.chat_template:
        ids = prompt_ids(tokenizer, replace(request, text=prompt.text, raw=True))
    else:
        ids = chat_ids(tokenizer, prompt.turns)
    found: list[int] = session.checked(ids, request)[0].tolist()
    return found


def _answer(session: Session, group: Sequence[Asked], request: Request, totals: _Totals) -> list[list[int]]:
    """Return the answers' token ids, in the order of `group`; every answer ends before its end token."""
    engine, pad = session.engine, pad_token(session)
    padded, mask = left_padded([asked.ids for asked in group], pad)
    images = [read_image(path) for asked in group for path in asked.prompt.images]
    seen = {"input_ids": padded, "attention_mask": mask}
    if images:
        seen = session.looker.inputs(padded, session.looker.look(images), mask)
    counter = _Counter(engine.measured, session.partial, end_tokens(session))
    torch.manual_seed(request.seed)
    with torch.inference_mode():
        made = engine.model.generate(  # type: ignore[operator]
            **seen,
            max_new_tokens=request.new,
            pad_token_id=pad,
            past_key_values=engine.new_cache(),
            streamer=counter,
            **request.choice(),
        )
    ends = end_tokens(session)
    found = [_until(row, ends) for row in made[:, padded.shape[1] :].tolist()]
    counter.add_to(totals, [len(ids) for ids in found])
    return found


def _until(row: list[int], ends: set[int]) -> list[int]:
    """Return `row` up to and with the first end token."""
    stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return row[:stop]


def _answer_fields(session: Session, ids: list[int]) -> dict[str, object]:
    return {"text": session.tokenizer.decode(ids, skip_special_tokens=True), "token_ids": ids}


class _Counter(BaseStreamer):
    """Counts passes, from the end of the prefill, and what they took; tells `partial` of each token."""

    def __init__(self, measured: Callable[[], Reading], partial: Answer, ends: Collection[int]) -> None:
        self._measured, self._partial = measured, partial
        self._ends = torch.tensor(sorted(ends))
        self._ended = torch.zeros(1, dtype=torch.bool)
        self._puts = 0
        self._first = self._last = Reading()
        self._first_s = self._last_s = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts once, then a token of every sequence."""
        self._puts += 1
        self._last, self._last_s = self._measured(), time.perf_counter()
        if self._puts > 1:
            chosen = value[~self._ended.expand(len(value))].tolist()
            self._ended = self._ended | torch.isin(value, self._ends)
            self._partial.token_ids += chosen
            self._partial.pass_tokens.append(len(chosen))
            self._partial.arrived_s.append(self._last_s)
        if self._puts == 2:
            self._first, self._first_s = self._last, self._last_s

    def end(self) -> None:
        """Do nothing more."""

    def add_to(self, totals: _Totals, lengths: Sequence[int]) -> None:
        """Add the decode passes of answers of these many tokens."""
        totals.passes += max(0, self._puts - 2)
        totals.tokens += sum(length - 1 for length in lengths)
        totals.decode_s += self._last_s - self._first_s
        totals.read_bytes += self._last.read_bytes - self._first.read_bytes
        totals.stall_s += self._last.stall_s - self._first.stall_s
