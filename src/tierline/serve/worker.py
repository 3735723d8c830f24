"""The model's thread: takes what waits, runs it as one batch, and then the next."""

import threading
import time
from collections.abc import Callable, Sequence

from tierline.errors import TierlineError
from tierline.run.batch import Row, generate_rows
from tierline.run.images.files import decode_image
from tierline.run.session import Session
from tierline.serve.job import Job
from tierline.serve.metrics import Metrics
from tierline.serve.queue import Queue

_STOPPING = "the server is stopping"


class Worker:
    """Answers the jobs of `queue` with the model of `session` until it is stopped, or until that fails."""

    def __init__(
        self, session: Session, queue: Queue, metrics: Metrics, failed: Callable[[BaseException], None]
    ) -> None:
        """`failed` is told, in the model's thread, of what ended it: the model answers no more."""
        self._session, self._queue, self._metrics, self._failed = session, queue, metrics, failed
        self._running: Sequence[Job] = ()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._metrics.begin(self._session.engine.measured())
        self._thread.start()

    def stop(self) -> None:
        """End what runs with its next token, refuse what waits, and wait for the thread."""
        for job in self._queue.close():
            job.fail(_STOPPING)
        for job in self._running:
            job.fail(_STOPPING)
            job.cancelled = True
        self._thread.join()

    def _run(self) -> None:
        while group := self._queue.take():
            try:
                self._answer(group)
            except BaseException as error:  # noqa: BLE001 - whatever it is, clients must hear of it, not hang
                why = str(error) if isinstance(error, TierlineError) else "the model failed; see its log"
                for job in (*group, *self._queue.close()):
                    job.fail(why)
                self._failed(error)
                return

    def _answer(self, group: Sequence[Job]) -> None:
        self._running, pace = group, _Pace(group, self._metrics)
        self._metrics.batch.observe(len(group))
        self._metrics.prompt_tokens.inc(sum(len(job.ids) for job in group))

        def passed() -> None:
            pace.note()
            self._metrics.note(self._session.engine.measured())

        try:
            generate_rows(self._session, [_row(job) for job in group], passed)
        finally:
            self._running = ()
            self._metrics.running.set(0)


def _row(job: Job) -> Row:
    images = [decode_image(file, "an image") for file in job.images]
    return Row(job.ids, job.request, job.take, images)


class _Pace:
    """Counts the passes of one batch and what they gave."""

    def __init__(self, group: Sequence[Job], metrics: Metrics) -> None:
        self._group, self._metrics = group, metrics
        self._tokens = self._first = 0
        self._started_s: float | None = None

    def note(self) -> None:
        """Take what a pass has given; the rate counts from the first, which the prompts' gave."""
        tokens, now_s = sum(job.tokens for job in self._group), time.perf_counter()
        self._metrics.passes.inc()
        self._metrics.tokens.inc(tokens - self._tokens)
        self._metrics.running.set(sum(not job.ended for job in self._group))
        self._tokens = tokens
        if self._started_s is None:
            self._started_s, self._first = now_s, tokens
        else:
            self._metrics.rate.set((tokens - self._first) / (now_s - self._started_s))
