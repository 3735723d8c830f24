"""What the verbs that draw share: `--plot FILE` and, where there are several figures, `--figure NAME`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierline.errors import InputError

if TYPE_CHECKING:
    from tierline.report.figures.figure import Figure

Figures = Mapping[str, Callable[[], "Figure"]]
PLAN_FIGURES = ("memory", "formats", "context", "traffic", "budget", "link")
SIMULATE_FIGURES = ("timeline", "residency", "link")

PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw a figure: .svg, .png or .pdf.")
]
PlanFigureOption = Annotated[
    str | None,
    typer.Option("--figure", metavar="|".join(PLAN_FIGURES), help="Which figure; memory if not given."),
]
SimulateFigureOption = Annotated[
    str | None,
    typer.Option("--figure", metavar="|".join(SIMULATE_FIGURES), help="Which figure; timeline if not given."),
]


def check_plot(path: Path | None, name: str | None = None, known: Sequence[str] = ()) -> None:
    """Raise InputError for a file or a figure that cannot be drawn, before anything is computed."""
    if path is None:
        if name is not None:
            raise InputError(f"--figure {name[:40]}: goes with --plot FILE")
        return
    if name is not None and name not in known:
        raise InputError(f"--figure {name[:40]!r}: want one of {', '.join(known)}")
    from tierline.report.figures.draw import check_path

    check_path(path)


def plot(path: Path | None, figure: Callable[[], "Figure"]) -> None:
    """Draw `figure` into `path`, where one was given."""
    if path is not None:
        from tierline.report.figures.draw import draw

        draw(figure(), path)


def plot_one(path: Path | None, name: str | None, figures: Figures) -> None:
    """Draw the figure called `name`, or the first; see `check_plot`."""
    plot(path, figures[name or next(iter(figures))])
