"""Charts in files: series, rules, and a list that explains the tags of points."""

import textwrap
from typing import TYPE_CHECKING, Any

from tierline.report.figures.draw import dash, figure_of, ink, marker, text
from tierline.report.figures.figure import Axis, Chart, Rule, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_PLACE = (0.095, 0.115, 0.55, 0.815)
_HEIGHT, _LINE, _GAP, _TITLE = 4.4, 0.122, 0.05, 0.15  # inches
_KEY_LETTERS = 40
_CROWDED, _LEVELS = 0.045, 4
_FEW_DECADES = 1e3


def draw_chart(chart: Chart) -> "Canvas":
    """Return the chart with its legend below it, or if it has a key, with both to the right of it."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.4, _height(chart)), layout=None if chart.key else "constrained")
    axes = canvas.add_axes(_PLACE) if chart.key else canvas.subplots()
    _frame(axes, chart)
    stacked: list[float] = []
    for series in chart.series:
        if series.kind == "points":
            _points(axes, series, chart)
        elif series.kind == "area":
            stacked = _area(axes, series, chart, stacked)
        else:
            _line(axes, series, chart)
    _limits(axes, chart)
    _tags(axes, chart)
    for rule in chart.rules:
        _rule(axes, rule, chart)
    _keys(axes, chart)
    return canvas


def _height(chart: Chart) -> float:
    """Return the height in inches: what is usual, or what the key and the legend below it need."""
    texts = [text(entry.text) for entry in chart.key] + [text(s.name) for s in chart.series if s.in_legend]
    lines = sum(len(textwrap.wrap(each, _KEY_LETTERS)) for each in texts)
    needed = _LINE * lines + _GAP * (len(texts) + 2) + 2 * _TITLE
    return max(_HEIGHT, needed / _PLACE[3]) if chart.key else _HEIGHT


def _frame(axes: "Axes", chart: Chart) -> None:
    axes.set(xscale="log" if chart.x.log else "linear", yscale="log" if chart.y.log else "linear")
    axes.set_xlabel(text(chart.x.label))
    axes.set_ylabel(text(chart.y.label))
    axes.set_title(text(chart.title), loc="left")
    axes.grid(visible=True, which="major", linewidth=0.4, color="#d0d0d0")
    axes.set_axisbelow(True)


def _limits(axes: "Axes", chart: Chart) -> None:
    """Set the limits that the axes ask for, others by what is drawn; ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, drawn, name in ((chart.x, axes.xaxis, "x"), (chart.y, axes.yaxis, "y")):
        low, high = _shown(axis.low, axis), _shown(axis.high, axis)
        axes.set(**{f"{name}lim": (low if low is not None or axis.log else 0, high)})
        if axis.log:
            least, most = sorted(drawn.get_view_interval())
            subs = (1.0, 2.0, 5.0) if most / least < _FEW_DECADES else (1.0,)
            drawn.set_major_locator(LogLocator(subs=subs))
            drawn.set_minor_formatter(NullFormatter())
        if axis.log or (axis.high or 0) / axis.scale >= 1000:
            drawn.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _shown(value: float | None, axis: Axis) -> float | None:
    return None if value is None else value / axis.scale


def _spots(series: Series, chart: Chart) -> tuple[list[float], list[float]]:
    return [x / chart.x.scale for x in series.xs], [y / chart.y.scale for y in series.ys]


def _line(axes: "Axes", series: Series, chart: Chart) -> None:
    xs, ys = _spots(series, chart)
    style = {"linestyle": dash(series.dash), "color": ink(series.colour), "linewidth": series.width}
    axes.plot(xs, ys, label=text(series.name) if series.in_legend else "_", zorder=2, **style)
    for x, y, tag in zip(xs, ys, series.tags, strict=False):
        if tag:
            axes.annotate(
                text(tag), (x, y), xytext=(-4, 3), textcoords="offset points", ha="right", va="bottom",
                color=ink(series.colour), fontsize=7.5, bbox=_paper(),
            )  # fmt: skip


def _area(axes: "Axes", series: Series, chart: Chart, below: list[float]) -> list[float]:
    """Fill from what is `below` to the series on top of it; return the new top."""
    xs, ys = _spots(series, chart)
    below = below or [0.0] * len(ys)
    top = [a + b for a, b in zip(below, ys, strict=True)]
    style: dict[str, Any] = {"facecolor": ink(series.colour), "edgecolor": "#202020", "linewidth": 0.4}
    axes.fill_between(xs, below, top, hatch=2 * series.texture or None, label=text(series.name), **style)
    return top


def _points(axes: "Axes", series: Series, chart: Chart) -> None:
    xs, ys = _spots(series, chart)
    colour = ink(series.colour)
    axes.plot(
        xs, ys, marker=marker(series.marker), markersize=5.5, linestyle="none", zorder=4,
        markerfacecolor=colour if series.filled else "white",
        markeredgecolor="white" if series.filled else colour, markeredgewidth=0.6 if series.filled else 1.1,
        label=text(series.name) if series.in_legend else "_",
    )  # fmt: skip


def _tags(axes: "Axes", chart: Chart) -> None:
    """Write the tags of points: below filled ones, beside hollow ones; those of a colour step aside."""
    tagged: dict[str, list[tuple[float, float, str, bool]]] = {}
    for series in chart.series:
        if series.kind == "points":
            spots = zip(*_spots(series, chart), series.tags, strict=False)
            tagged.setdefault(ink(series.colour), []).extend((*spot, series.filled) for spot in spots)
    for i, (colour, members) in enumerate(tagged.items()):
        last, level = -1.0, 0
        for x, y, tag, below in sorted(members):
            place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0]
            level = (level + 1) % _LEVELS if place - last < _CROWDED else 0
            last = place
            side = 0 if below else 1 - 2 * (i % 2)
            away = (side * (6 + 8 * level), -side if side else -5 - 8 * level)
            align: dict[str, Any] = {"va": "bottom" if side < 0 else "top"}
            align["ha"] = {0: "center", 1: "left", -1: "right"}[side]
            look: dict[str, Any] = {"fontsize": 7, "color": colour, "zorder": 5}
            axes.annotate(text(tag), (x, y), xytext=away, textcoords="offset points", **look, **align)


def _rule(axes: "Axes", rule: Rule, chart: Chart) -> None:
    style: dict[str, Any] = {"color": ink(rule.colour), "linestyle": dash(rule.dash), "linewidth": 1.0}
    where: dict[str, Any] = {"fontsize": 7, "color": ink(rule.colour), "bbox": _paper()}
    if rule.axis == "x":
        at = rule.at / chart.x.scale
        axes.axvline(at, zorder=3, **style)
        along: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "bottom"}
        axes.text(at, 0.02, text(rule.label), transform=axes.get_xaxis_transform(), **along, **where)
    else:
        at = rule.at / chart.y.scale
        side: Any = "top" if rule.colour == "faint" else "bottom"
        axes.axhline(at, zorder=3, **style)
        axes.text(0.02, at, text(rule.label), transform=axes.get_yaxis_transform(), va=side, **where)


def _keys(axes: "Axes", chart: Chart) -> None:
    """Put the explained tags beside the chart, the named series below them."""
    beside: dict[str, Any] = {
        "frameon": False,
        "borderaxespad": 0.0,
        "handletextpad": 0.5,
        "alignment": "left",
    }
    if chart.key:
        axes.add_artist(
            axes.legend(
                [_sign(entry.marker, filled=entry.filled) for entry in chart.key],
                ["\n".join(textwrap.wrap(text(entry.text), _KEY_LETTERS)) for entry in chart.key],
                loc="upper left", bbox_to_anchor=(1.02, 1.0), title=text(chart.key_title), **beside,
            )
        )  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    wrapped = ["\n".join(textwrap.wrap(label, _KEY_LETTERS)) for label in labels]
    title = text(chart.legend_title)
    if chart.key:
        axes.legend(handles, wrapped, title=title, loc="lower left", bbox_to_anchor=(1.02, 0.0), **beside)
    else:
        below: dict[str, Any] = {"frameon": False, "ncols": min(4, len(handles)), "alignment": "left"}
        figure_of(axes).legend(handles, wrapped, title=title, loc="outside lower left", **below)


def _sign(name: Any, *, filled: bool) -> Any:  # noqa: ANN401 - a marker, and matplotlib's line with it
    from matplotlib.lines import Line2D

    sign = Line2D([], [], marker=marker(name), color="#404040", markersize=4, linestyle="none")
    sign.set_markerfacecolor("#404040" if filled else "white")
    return sign


def _paper() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
