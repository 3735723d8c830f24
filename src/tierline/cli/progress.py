"""Progress of long work on stderr: what is happening, how far it is, its rate and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID


class LoadingBar:
    """A line that says what is being done, and a bar once there are bytes to count."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress, self._task = progress, task

    def say(self, what: str) -> None:
        """Change what the line says."""
        self._progress.update(self._task, description=what)

    def loading(self, done_bytes: int, total_bytes: int) -> None:
        """Show how much of the pinned weights is in memory; after the last of it comes the prompt."""
        what = "loading pinned weights" if done_bytes < total_bytes else "reading the prompt"
        self._progress.update(self._task, description=what, completed=done_bytes, total=total_bytes)

    def packing(self, done_bytes: int, total_bytes: int) -> None:
        """Show how much of the packed file is written."""
        self._progress.update(self._task, description="packing", completed=done_bytes, total=total_bytes)

    def serving(self, answered: int, total: int, tokens_per_s: float) -> None:
        """Show how many prompts are answered, and the decode rate of all together."""
        what = f"{answered} of {total} prompts answered, {tokens_per_s:.1f} tok/s"
        self._progress.update(self._task, description=what, completed=answered, total=total)

    def stop(self) -> None:
        """Take the line away; a second call does nothing."""
        self._progress.stop()


class RowsBar:
    """A bar that counts rows, with their rate and the time left."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress, self._task = progress, task
        self._started = False

    def rows(self, done: int, total: int) -> None:
        """Show how many rows are done; the first call says what was done before."""
        if not self._started:
            self._progress.reset(self._task, total=total, completed=done)
            self._started = True
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def rows_bar(what: str) -> Iterator[RowsBar]:
    """Show a bar of rows on stderr until the block ends; off a terminal nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: "Task") -> Text:
            return Text(f"{task.speed:,.0f} rows/s" if task.speed else "", style="progress.data.speed")

    name = TextColumn("{task.description}")
    columns = (name, BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    console = Console(stderr=True)
    shown = Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False
    )
    with shown as progress:
        yield RowsBar(progress, progress.add_task(what, total=None))


@contextmanager
def loading_bar(what: str) -> Iterator[LoadingBar]:
    """Show a bar on stderr until it is stopped or the block ends; off a terminal nothing is shown."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # stdout is left alone: with the bar on the terminal, an answer that goes to a file must reach the file.
    shown = Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False
    )
    with shown as progress:
        yield LoadingBar(progress, progress.add_task(what, total=None))
