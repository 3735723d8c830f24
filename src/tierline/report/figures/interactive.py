"""Figures for a page: plotly's JSON, made without plotly.

Colours `ink`, `faint`, `grid` and `page` are left as words: `assets/figures.js` gives them the theme's
values. Texts are escaped, since plotly reads some HTML in them.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from tierline.report.figures.figure import Axis, Bar, Bars, Chart, Figure, Lanes, Paint, Rule, Series
from tierline.report.tables import shown

Json = dict[str, Any]
_BAR_PX, _LANE_PX, _EDGES_PX, _CHART_PX = 64, 26, 150, 440
_FEW_DECADES = 1e3
_LINE_HOVER = "%{fullData.name}<extra></extra>"


def plotly_figure(figure: Figure) -> Json:
    """Return `figure` as plotly's `data` and `layout`, base units turned into those of its axes."""
    if isinstance(figure, Bars):
        return _bars(figure)
    if isinstance(figure, Chart):
        return _chart(figure)
    return _lanes(figure)


def _bars(figure: Bars) -> Json:
    """Return stacked bars: a trace per name of segment, so that the legend has each once."""
    names = [_text(bar.name) for bar in figure.bars]
    scale = figure.axis.scale
    paints = {s.name: s.paint for bar in figure.bars for s in bar.segments}
    data = []
    for name, paint in paints.items():
        found = [(b, s) for b, bar in enumerate(figure.bars) for s in bar.segments if s.name == name]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": _text(name),
                "y": [names[b] for b, _ in found],
                "x": [s.value / scale for _, s in found],
                "customdata": [_text(f"{s.name}: {s.hover}" if s.hover else s.name) for _, s in found],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": _marker_of(paint),
            }
        )
    layout = _layout(figure.title, _EDGES_PX + _BAR_PX * len(names))
    layout |= {
        "barmode": "stack",
        "bargap": 0.5,
        "xaxis": _axis(figure.axis),
        "yaxis": _names_axis(names),
        "shapes": [line for i, bar in enumerate(figure.bars) if (line := _limit(figure, bar, i))],
        "annotations": [_label(figure, bar, i) for i, bar in enumerate(figure.bars) if bar.label],
    }
    return {"data": data, "layout": layout}


def _limit(figure: Bars, bar: Bar, place: int) -> Json | None:
    """Return the line of what a bar may reach; None where it may reach anything, or more than is drawn."""
    if bar.limit is None or bar.limit > (figure.axis.high or bar.limit):
        return None
    at = bar.limit / figure.axis.scale
    ends = {"x0": at, "x1": at, "y0": place - 0.27, "y1": place + 0.27}
    return {"type": "line", **ends, "line": {"color": "ink", "width": 3}}


def _label(figure: Bars, bar: Bar, place: int) -> Json:
    """Return what stands above the end of a bar's row; an arrow where its limit is beyond the axis."""
    beyond = bar.limit is not None and bar.limit > (figure.axis.high or bar.limit)
    return {
        "text": _text(f"{bar.label} \N{RIGHTWARDS ARROW}" if beyond else bar.label),
        "x": 1,
        "xref": "paper",
        "xanchor": "right",
        "y": place - 0.28,
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": "ink", "size": 11},
    }


def _chart(figure: Chart) -> Json:
    data = [_series(series, figure, below=i % 2 == 0) for i, series in enumerate(figure.series)]
    layout = _layout(figure.title, _CHART_PX)
    layout |= {"xaxis": _axis(figure.x), "yaxis": _axis(figure.y)}
    layout["legend"] |= {"title": {"text": _text(figure.legend_title)}}
    shapes, annotations = [], []
    for rule in figure.rules:
        axis, other = (figure.x, "y") if rule.axis == "x" else (figure.y, "x")
        at = rule.at / axis.scale
        line = {"color": rule.colour, "width": 1.2, "dash": rule.dash}
        ends = {f"{rule.axis}0": at, f"{rule.axis}1": at, f"{other}0": 0, f"{other}1": 1}
        shapes.append({"type": "line", **ends, f"{other}ref": "paper", "line": line})
        annotations.append(_rule_label(rule, _place(at, axis)))
    return {"data": data, "layout": layout | {"shapes": shapes, "annotations": annotations}}


def _rule_label(rule: Rule, at: float) -> Json:
    """Return the name on a rule: on top of a vertical one, above a horizontal one, below it if faint."""
    label: Json = {"text": _text(rule.label), "showarrow": False, "font": {"color": rule.colour, "size": 11}}
    if rule.axis == "x":
        return label | {"x": at, "y": 1, "yref": "paper", "yanchor": "bottom"}
    side = "top" if rule.colour == "faint" else "bottom"
    return label | {"y": at, "x": 0.01, "xref": "paper", "xanchor": "left", "yanchor": side}


def _place(at: float, axis: Axis) -> float:
    """Return where an annotation goes: plotly wants the logarithm there, and there only."""
    from math import log10

    return log10(at) if axis.log else at


def _series(series: Series, figure: Chart, *, below: bool) -> Json:
    """Return a trace; tags of points stand `below` them or above."""
    trace: Json = {
        "type": "scatter",
        "name": _text(series.name),
        "x": [x / figure.x.scale for x in series.xs],
        "y": [y / figure.y.scale for y in series.ys],
        "showlegend": series.in_legend,
        "mode": "markers" if series.kind == "points" else "lines",
    }
    if series.kind == "points":
        trace["marker"] = {
            "symbol": series.marker if series.filled else f"{series.marker}-open",
            "color": series.colour,
            "size": 9,
            "line": {"width": 2, "color": series.colour},
        }
    else:
        trace["line"] = {"color": series.colour, "dash": series.dash, "width": 1.4 * series.width}
    if series.kind == "area":
        trace |= {"stackgroup": "one", "fillpattern": {"shape": series.texture}}
    if any(series.tags):
        trace["mode"] += "+text"
        trace["text"] = [_text(tag) for tag in series.tags]
        trace |= {
            "textposition": _tag_place(series, below=below),
            "textfont": {"color": "ink", "size": 11},
        }
    if series.hovers:
        trace |= {"customdata": [_text(h) for h in series.hovers]}
        trace["hovertemplate"] = "%{customdata}<extra></extra>"
    elif series.kind == "line":
        trace["hovertemplate"] = _LINE_HOVER
    return trace


def _tag_place(series: Series, *, below: bool) -> str:
    """Return where tags stand: under the end of a line, on top of filled points, else where asked for."""
    if series.kind == "line":
        return "bottom left"
    return "bottom center" if below and not series.filled else "top center"


def _lanes(figure: Lanes) -> Json:
    """Return spans as bars with a base: a trace per activity."""
    rows = [(group, lane) for group in figure.groups for lane in group.lanes]
    several = len(figure.groups) > 1
    names = [_text(f"{g.name} {lane.name}" if several else lane.name) for g, lane in rows]
    scale = figure.axis.scale
    data = []
    for activity, paint in figure.paints.items():
        spans = [
            (names[i], span, 0.5 * lane.separable)
            for i, (_, lane) in enumerate(rows)
            for span in lane.spans
            if span.activity == activity
        ]
        edges = {"width": [edge for _, _, edge in spans], "color": "page"}
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": activity,
                "y": [name for name, _, _ in spans],
                "base": [span.start_s / scale for _, span, _ in spans],
                "x": [(span.end_s - span.start_s) / scale for _, span, _ in spans],
                "customdata": [_text(span.hover) for _, span, _ in spans],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": _marker_of(paint) | {"line": edges},
            }
        )
    layout = _layout(figure.title, _EDGES_PX + _LANE_PX * len(rows))
    layout |= {
        "barmode": "overlay",
        "bargap": 0.2,
        "xaxis": _axis(figure.axis),
        "yaxis": _names_axis(names),
    }
    return {"data": data, "layout": layout}


def _marker_of(paint: Paint) -> Json:
    pattern = {"shape": paint.texture, "fgcolor": "ink", "fgopacity": 0.8, "size": 6, "solidity": 0.25}
    return {"color": paint.colour, "line": {"width": 1, "color": "page"}} | (
        {"pattern": pattern | {"bgcolor": paint.colour}} if paint.texture else {}
    )


def _names_axis(names: Sequence[str]) -> Json:
    """Return the axis of bars and lanes, the first on top."""
    return {
        "autorange": "reversed",
        "categoryorder": "array",
        "categoryarray": list(names),
        "ticksuffix": " ",
        "automargin": True,
    }


def _axis(axis: Axis) -> Json:
    made: Json = {"title": {"text": _text(axis.label)}, "gridcolor": "grid", "linecolor": "ink"}
    made |= {"zeroline": False, "automargin": True}
    if axis.log:
        made |= {"type": "log", "dtick": _ticks(axis), "tickformat": ",~g"}
    else:
        made["rangemode"] = "tozero"
    limits: Sequence[float | None] = (axis.low, axis.high)
    if any(limit is not None for limit in limits):
        made["range"] = [None if x is None else _place(x / axis.scale, axis) for x in limits]
        if axis.low is None and not axis.log:
            made["range"][0] = 0
    return made


def _ticks(axis: Axis) -> int | str:
    """Return plotly's step between ticks of a logarithmic axis: 1, 2, 5 where there are few decades."""
    few = axis.low and axis.high and axis.high / axis.low < _FEW_DECADES
    return "D2" if few else 1


def _layout(title: str, height: int) -> Json:
    return {
        "title": {"text": _text(title), "font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 48, "b": 92},
        "font": {"color": "ink", "family": "system-ui, sans-serif", "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
            "x": 0,
        },
        "hoverlabel": {"align": "left"},
    }


def _text(text: str) -> str:
    """Return `text` as plotly shows it as it is: printable, nothing of it HTML."""
    return escape(shown(text), quote=False)
