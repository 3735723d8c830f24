"""A model that answers, with its tokenizer: one request, or a conversation that keeps its cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from transformers import Cache, DynamicCache, PreTrainedTokenizerBase

from tierline.errors import InputError
from tierline.run.engine import Engine
from tierline.run.generate import Answer, Emit, chat_ids, generate, prompt_ids
from tierline.run.kv.choice import KvChoice
from tierline.run.pace import Pace, PacedFile, PacedLink
from tierline.run.predict import Prediction, paced
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.report import RunReport, make_report
from tierline.run.request import Request
from tierline.run.room import Room
from tierline.run.source import Source
from tierline.run.weights import Progress
from tierline.trace import TraceEvent


class Session:
    """A model on disk, opened to answer; use it as a context manager, or `close` it."""

    def __init__(
        self,
        source: Source,
        *,
        resident: int | None,
        memory: int | None,
        keep_events: bool = False,
        pace: Pace | None = None,
        verify: bool = False,
        kv: KvChoice | None = None,
    ) -> None:
        """With `pace`, the model is read at the rate of another machine's link.

        `kv` is how the cache is kept, by default as computed and in memory.

        With `verify`, weights are held against the checksums of a packed file before they are used.
        """
        self.tokenizer: PreTrainedTokenizerBase = source.tokenizer()
        self._link = None if pace is None else PacedLink(pace)
        link = self._link
        self.engine = Engine(
            source,
            resident=resident,
            memory=memory,
            verify=verify,
            opener=None if link is None else lambda path: PacedFile(path, link),
        )
        self.partial = Answer()
        self._kv = kv or KvChoice()
        self._keep_events = keep_events

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give threads, memory and descriptors back; a second call does nothing."""
        if self._link is not None:
            self._link.stop()
        self.engine.close()

    @property
    def events(self) -> Sequence[TraceEvent]:
        """What happened while answering, if events were asked for; times are since the first answer began."""
        return self.engine.recorder.events

    def answer(self, request: Request, *, progress: Progress, emit: Emit) -> RunReport:
        """Load the model for `request`, run it, and return what it took; text goes to `emit` as it comes.

        Raises BudgetError where a budget cannot work and FaultError where a read fails; `partial` then
        holds what had come by that time.
        """
        return self.execute(self.prepare(request, progress), emit)

    def prepare(self, request: Request, progress: Progress) -> "Prepared":
        """Load the model for `request` and return it with what is predicted; raises as `answer` does."""
        ids = prompt_ids(self.tokenizer, request)
        longest = self.engine.source.model.max_context
        if longest is not None and ids.shape[1] + request.new > longest:
            raise InputError(
                f"a prompt of {ids.shape[1]:,} tokens and {request.new:,} new ones are more than the "
                f"{longest:,} that {self.engine.source.path.name} was made for: shorten it, or lower --new"
            )
        room = Room(prompt_tokens=ids.shape[1], new=request.new, drafts=request.speculate, kv=self._kv)
        prediction = self._load(room, progress)
        return Prepared(request, ids, prediction)

    def execute(self, prepared: "Prepared", emit: Emit) -> RunReport:
        """Run what was prepared; returns, emits and raises as `answer` does."""
        cache = self.engine.new_cache()
        return self._run(prepared.ids, prepared.request, prepared.prediction, emit, cache)

    def converse(self, context: int, progress: Progress) -> "Conversation":
        """Load the model for a conversation of at most `context` tokens and return it."""
        if not self.tokenizer.chat_template:
            raise InputError(f"{self.engine.source.path}: has no chat template, so it cannot converse")
        new = max(1, context // 4)
        return Conversation(
            self, self._load(Room(max(1, context - new), new, kv=self._kv), progress), context
        )

    def _load(self, room: Room, progress: Progress) -> Prediction:
        """Load the model; with a pace, the link's rate is predicted, not the one measured through it."""
        prediction = self.engine.load(room, progress)
        if self._link is None or self.engine.weights is None:
            return prediction
        return paced(prediction, self._link.pace, self.engine.weights.plan.tile_read_bytes)

    def _run(
        self,
        ids: torch.Tensor,
        request: Request,
        prediction: Prediction,
        emit: Emit,
        cache: Cache | None,
    ) -> RunReport:
        self.partial = Answer()
        if self._keep_events and not self.engine.recorder.on:
            self.engine.recorder.begin()
        reset_peak()
        generate(
            self.engine.model,
            self.tokenizer,
            ids,
            request,
            self.partial,
            meter=self.engine.measured,
            emit=emit,
            cache=cache,
        )
        assert self.engine.weights is not None  # noqa: S101 - load has set it
        return make_report(
            self.partial,
            self.engine.weights,
            prediction,
            allowed_bytes=self.engine.allowed_bytes,
            reserved_bytes=self.engine.reserved_bytes,
            measured_bytes=peak_resident_bytes(),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose model is loaded: its token ids, shape `(1, tokens)`, and what is predicted."""

    request: Request
    ids: torch.Tensor
    prediction: Prediction


class Conversation:
    """Turns of one conversation: each is computed once, and the cache carries over to the next."""

    def __init__(self, session: Session, prediction: Prediction, context: int) -> None:
        self._session, self._prediction, self._context = session, prediction, context
        self._turns: list[dict[str, str]] = []
        self._cached: list[int] = []
        self._cache = session.engine.new_cache() or DynamicCache(config=session.engine.model.config)

    def say(self, request: Request, emit: Emit) -> RunReport:
        """Answer `request.text` as the next turn and return what it took.

        Raises InputError, the conversation unchanged, where the turn would outgrow the context.
        """
        turns = [*self._turns, {"role": "user", "content": request.text}]
        ids = chat_ids(self._session.tokenizer, turns)
        if ids.shape[1] + request.new > self._context:
            raise InputError(
                f"{ids.shape[1]:,} tokens of conversation and {request.new:,} new ones are more than the "
                f"{self._context:,} that room was kept for: start anew, or give a larger --context"
            )
        self._keep_common(ids[0].tolist())
        report = self._session._run(ids, request, self._prediction, emit, self._cache)  # noqa: SLF001 - its own
        # The last token was chosen but never computed with, so it is not in the cache.
        self._cached = [*ids[0].tolist(), *report.token_ids][: self._cache.get_seq_length()]
        self._turns = [*turns, {"role": "assistant", "content": report.text}]
        return report

    def _keep_common(self, ids: list[int]) -> None:
        """Cut the cache back to what it has in common with `ids`, leaving at least one token to compute."""
        common = 0
        for ours, theirs in zip(self._cached, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        if surplus := self._cache.get_seq_length() - common:
            self._cache.crop(-surplus)
