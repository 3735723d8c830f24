"""`tierline run --live`: tiers, links, tokens and stalls in the terminal, and for the page to follow."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    from tierline.run.report import RunReport
    from tierline.run.session import Session

_EVERY_S = 0.25
_BAR_WIDTH = 28
_TEXT_LETTERS = 600


def answer_live(session: "Session", request: Request, bar: LoadingBar, out: TextIO) -> "RunReport":
    """Answer as `Session.answer` does, with the meters drawn on stderr and published while it goes.

    On a terminal the text is part of what is drawn, and goes to `out` when it is whole.
    """
    console = Console(stderr=True, highlight=False)
    drawn = console.is_terminal and out.isatty()
    publisher = Publisher(runtime_folder())
    watch = Watch(session, publisher.run, request.new)
    publisher.publish(watch.now("loading"))
    prepared = session.prepare(request, bar.loading)
    bar.stop()
    watch.begin(prepared.prediction)
    with _watching(watch, publisher, console):
        report = session.execute(prepared, _keep_quiet if drawn else writer(out, bar))
    if drawn:
        out.write(report.text)
    return report


def _keep_quiet(_: str) -> None:
    """Leave the text to what is drawn."""


@contextmanager
def _watching(watch: Watch, publisher: Publisher, console: Console) -> Iterator[None]:
    """Draw and publish several times a second until the block ends; say then how it ended."""
    done = threading.Event()
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(stage: Stage) -> None:
            now = watch.now(stage)
            publisher.publish(now)
            if console.is_terminal:
                live.update(picture(now, watch.text), refresh=True)

        def repeat() -> None:
            while not done.wait(_EVERY_S):
                show("answering")

        thread = threading.Thread(target=repeat, name="live", daemon=True)
        thread.start()
        ended: Stage = "failed"
        try:
            yield
            ended = "done"
        finally:
            done.set()
            thread.join()
            show(ended)


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
