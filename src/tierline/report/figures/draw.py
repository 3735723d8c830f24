"""Figures in files, drawn by matplotlib: SVG, PNG or PDF."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierline.errors import InputError
from tierline.report.figures.figure import Bar, Bars, Chart, Dash, Figure, Lanes, Marker, Paint
from tierline.report.tables import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

SUFFIXES = (".png", ".svg", ".pdf")
_INK = {"ink": "#202020", "faint": "#707070"}
STYLE: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "tierline",
    "pdf.fonttype": 42,
}
_DPI = 200
_WIDE = 0.07  # the share of the axis from which a segment has room for its name


def check_path(path: Path) -> None:
    """Raise InputError where `path` has a suffix of no figure, or matplotlib is missing."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot {path}: want a file that ends in {', '.join(SUFFIXES)}")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install 'tierline[plot]'")


def draw(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`; raises as `check_path` does, and OSError where the file cannot be written."""
    check_path(path)
    import matplotlib as mpl

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # keys are checked by matplotlib
        canvas = _canvas(figure)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        canvas.savefig(path, dpi=_DPI, metadata=metadata)


def _canvas(figure: Figure) -> "Canvas":
    from matplotlib.figure import Figure as Canvas

    if isinstance(figure, Chart):
        from tierline.report.figures.draw_chart import draw_chart

        return draw_chart(figure)
    if isinstance(figure, Bars):
        canvas = Canvas(figsize=(7.4, 1.3 + 0.52 * len(figure.bars)), layout="constrained")
        _bars(canvas.subplots(), figure)
    else:
        rows = sum(len(group.lanes) for group in figure.groups) + len(figure.groups) - 1
        canvas = Canvas(figsize=(7.4, 1.4 + 0.27 * rows), layout="constrained")
        _lanes(canvas.subplots(), figure)
    return canvas


def _bars(axes: "Axes", figure: Bars) -> None:
    """Draw stacked bars with their limits; names stand in segments that have room for them."""
    scale = figure.axis.scale
    high = figure.axis.high or max(bar.total for bar in figure.bars)
    named: dict[str, Any] = {}
    for row, bar in enumerate(figure.bars):
        left = 0.0
        for segment in bar.segments:
            drawn = axes.barh(
                row, segment.value / scale, left=left / scale, height=0.5, **_fill(segment.paint)
            )
            named.setdefault(segment.name, drawn)
            if segment.value > _WIDE * high:
                middle = (left + segment.value / 2) / scale
                axes.text(
                    middle, row, text(segment.name), ha="center", va="center", fontsize=7, bbox=_paper()
                )
            left += segment.value
        _limit(axes, row, bar, high, scale)
    axes.set_yticks(range(len(figure.bars)), [text(bar.name) for bar in figure.bars])
    axes.set(xlabel=text(figure.axis.label), xlim=(0, high / scale))
    axes.invert_yaxis()
    axes.set_title(text(figure.title), loc="left")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    legend = {"loc": "outside lower left", "ncols": 4, "frameon": False, "handlelength": 1.6}
    figure_of(axes).legend(list(named.values()), [text(name) for name in named], **legend)


def _limit(axes: "Axes", row: int, bar: Bar, high: float, scale: float) -> None:
    """Draw what a bar may reach, or say by an arrow that it is beyond the axis; write its label."""
    beyond = bar.limit is not None and bar.limit > high
    if bar.limit is not None and not beyond:
        at = bar.limit / scale
        axes.plot([at, at], [row - 0.27, row + 0.27], color=_INK["ink"], linewidth=2.2, clip_on=False)
    label = f"{bar.label} \N{RIGHTWARDS ARROW}" if beyond else bar.label
    axes.text(high / scale, row - 0.3, text(label), ha="right", va="bottom", fontsize=7)


def _lanes(axes: "Axes", figure: Lanes) -> None:
    """Draw groups of lanes, the first on top, an empty row between them."""
    scale, row = figure.axis.scale, 0
    ticks: list[int] = []
    names: list[str] = []
    several = len(figure.groups) > 1
    for group in figure.groups:
        for lane in group.lanes:
            edge = 0.2 * lane.separable
            for activity, paint in figure.paints.items():
                spans = [s for s in lane.spans if s.activity == activity]
                stretches = [(s.start_s / scale, (s.end_s - s.start_s) / scale) for s in spans]
                axes.broken_barh(stretches, (row - 0.4, 0.8), **(_fill(paint) | {"linewidth": edge}))
            ticks.append(row)
            names.append(text(f"{group.name} {lane.name}" if several else lane.name))
            row += 1
        row += 1
    axes.set_yticks(ticks, names)
    ends = [s.end_s for group in figure.groups for lane in group.lanes for s in lane.spans]
    axes.set(xlabel=text(figure.axis.label), xlim=(0, max(ends, default=1.0) / scale))
    axes.invert_yaxis()
    axes.set_title(text(figure.title), loc="left")
    axes.grid(visible=True, axis="x", linewidth=0.4, color="#d0d0d0")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [axes.barh([0], [0], **_fill(paint)) for paint in figure.paints.values()]
    legend = {"loc": "outside lower left", "ncols": len(handles), "frameon": False}
    figure_of(axes).legend(handles, list(figure.paints), **legend)


def figure_of(axes: "Axes") -> Any:  # noqa: ANN401 - matplotlib says Figure or SubFigure, which both have legends
    """Return the figure that the axes are in."""
    return axes.get_figure()


def text(content: str) -> str:
    """Return `content` printable, and with dollar signs that do not begin a formula."""
    return shown(content).replace("$", r"\$")


def ink(colour: str) -> str:
    """Return a colour that matplotlib knows for one of a figure's."""
    return _INK.get(colour, colour)


def dash(name: Dash) -> Any:  # noqa: ANN401 - a name or a pattern
    """Return matplotlib's pattern of a dash."""
    patterns: dict[Dash, Any] = {
        "solid": "-",
        "dash": (0, (6, 2)),
        "dot": (0, (2, 2)),
        "dashdot": (0, (5, 1, 1, 1)),
        "longdash": (0, (9, 2)),
    }
    return patterns[name]


def marker(name: Marker) -> str:
    """Return matplotlib's sign of a marker."""
    signs: dict[Marker, str] = {
        "circle": "o",
        "square": "s",
        "diamond": "D",
        "triangle-up": "^",
        "triangle-down": "v",
        "cross": "P",
    }
    return signs[name]


def _fill(paint: Paint) -> dict[str, Any]:
    edge = {"edgecolor": "#202020" if paint.texture else "white", "linewidth": 0.5}
    return {"facecolor": ink(paint.colour), "hatch": 3 * paint.texture or None, **edge}


def _paper() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
