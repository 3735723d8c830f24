"""A model that answers requests, with its tokenizer, and a report of what each answer took."""

from types import TracebackType

from transformers import PreTrainedTokenizerBase

from tierline.run.engine import Engine, Room
from tierline.run.generate import Answer, Emit, generate, prompt_ids
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.report import RunReport, make_report
from tierline.run.request import Request
from tierline.run.source import Source
from tierline.run.weights import Progress


class Session:
    """A model for one request, loaded for its prompt; use it as a context manager, or `close` it."""

    def __init__(
        self, source: Source, *, resident: int | None, memory: int | None, keep_events: bool = False
    ) -> None:
        self.tokenizer: PreTrainedTokenizerBase = source.tokenizer()
        self.engine = Engine(source, resident=resident, memory=memory)
        self.partial = Answer()
        self._keep_events = keep_events

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give threads, memory and descriptors back; a second call does nothing."""
        self.engine.close()

    def answer(self, request: Request, *, progress: Progress, emit: Emit) -> RunReport:
        """Run `request` and return what it took; text goes to `emit` as it comes.

        Raises BudgetError where a budget cannot work and FaultError where a read fails; `partial` then
        holds what had come by that time.
        """
        ids = prompt_ids(self.tokenizer, request)
        room = Room(prompt_tokens=ids.shape[1], new=request.new)
        prediction = self.engine.load(room, progress, keep_events=self._keep_events)
        reset_peak()
        generate(
            self.engine.model,
            self.tokenizer,
            ids,
            request,
            self.partial,
            meter=self.engine.measured,
            emit=emit,
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
