"""`tierline run --live`: tiers, links, tokens and stalls in the terminal, and for the page to follow."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tierline.cli.progress import LoadingBar
from tierline.cli.session import writer
from tierline.live import Publisher, RunNow, Stage, runtime_folder
from tierline.report.tables import shown
from tierline.run.request import Request
from tierline.run.watch import Watch
from tierline.units import format_bytes, format_rate

if TYPE_CHECKING:
    from tierline.run.generate import Emit
    from tierline.run.predict import Prediction
    from tierline.run.report import RunReport
    from tierline.run.session import Session

_EVERY_S = 0.25
_BAR_WIDTH = 28
_TEXT_LETTERS = 600


class Meters:
    """A context manager: the meters of a session, drawn on stderr while it answers, published throughout.

    On a terminal the text is part of what is drawn, and is written when it is whole.
    """

    def __init__(self, session: "Session", most_tokens: int, out: TextIO) -> None:
        """Answers have at most so many tokens each and go to `out`."""
        self._console = Console(stderr=True, highlight=False)
        self._drawn = self._console.is_terminal and out.isatty()
        self._publisher = Publisher(runtime_folder())
        self._watch = Watch(session, self._publisher.run, most_tokens)

    def __enter__(self) -> "Meters":
        """Say that the model is being loaded."""
        self._publisher.publish(self._watch.now("loading"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Say how it ended."""
        self._publisher.publish(self._watch.now("failed" if kind else "done"))

    def answer(
        self, prediction: "Prediction", ask: "Callable[[Emit], RunReport]", emit: "Emit"
    ) -> "RunReport":
        """Return what `ask` returns, the meters shown meanwhile; its text goes to `emit`."""
        with self.shown(prediction):
            report = ask(_keep_quiet if self._drawn else emit)
        if self._drawn:
            emit(report.text)
        return report

    @contextmanager
    def shown(self, prediction: "Prediction", sequences: int = 1) -> Iterator[None]:
        """Draw and publish several times a second until the block ends; what follows is waited for.

        `prediction` is of a step, in which there are so many sequences.
        """
        self._watch.begin(prediction, sequences)
        done = threading.Event()
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def show(stage: Stage) -> None:
                now = self._watch.now(stage)
                self._publisher.publish(now)
                if self._console.is_terminal:
                    live.update(picture(now, self._watch.text), refresh=True)

            def repeat() -> None:
                while not done.wait(_EVERY_S):
                    show("answering")

            thread = threading.Thread(target=repeat, name="live", daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
                show("waiting")


def answer_live(session: "Session", request: Request, bar: LoadingBar, out: TextIO) -> "RunReport":
    """Answer as `Session.answer` does, the meters shown while it goes."""
    with Meters(session, request.new, out) as meters:
        prepared = session.prepare(request, bar.loading)
        bar.stop()
        return meters.answer(
            prepared.prediction, lambda emit: session.execute(prepared, emit), writer(out, bar)
        )


def _keep_quiet(_: str) -> None:
    """Leave the text to what is drawn."""


def picture(now: RunNow, text: str) -> Group:
    """Return how a run stands, for a terminal: what came so far, tiers, links, tokens and stalls."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for tier in now.tiers:
        limit = "" if tier.allowed_bytes is None else f" of {format_bytes(tier.allowed_bytes)}"
        _row(table, tier.name, tier.used_bytes, tier.allowed_bytes, format_bytes(tier.used_bytes) + limit)
    for link in now.links:
        known = link.limit_bytes_per_s
        limit = "" if known is None else f" of {format_rate(known)}"
        _row(table, f"link: {link.name}", link.bytes_per_s, known, format_rate(link.bytes_per_s) + limit)
    return Group(Text(shown_lines(text[-_TEXT_LETTERS:])), table, Text(_speed(now), style="bold"))


def shown_lines(text: str) -> str:
    """Return `text` with everything unprintable but its line ends escaped."""
    return "\n".join(shown(line) for line in text.split("\n"))


def _row(table: Table, name: str, value: float, limit: float | None, text: str) -> None:
    bar = "" if not limit else ProgressBar(total=limit, completed=min(value, limit), width=_BAR_WIDTH)
    table.add_row(Text(shown(name)), bar, Text(text))


def _speed(now: RunNow) -> str:
    rate = "no token yet" if now.tokens_per_s is None else f"{now.tokens_per_s:.3g} tok/s"
    planned = now.predicted_tokens_per_s
    said = f"{now.tokens:,} of {now.most_tokens:,} tokens, {rate}"
    if planned is not None:
        said += f" (planned {planned:.3g})"
    if now.stall_fraction is not None:
        said += f"; compute waits {now.stall_fraction:.0%} of the time"
    return said
