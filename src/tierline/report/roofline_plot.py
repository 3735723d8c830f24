"""The log-log plot of a roofline."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierline.errors import InputError
from tierline.report.roofline import OperationPoint, Roofline, alike
from tierline.report.tables import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which remain apart for colour-blind readers and in print.
_FORMAT_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINK_STYLES = ("-", (0, (6, 2)), (0, (3, 1.5)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
_MARKERS = ("o", "s", "D", "^", "v", "P")
_STYLE: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.linewidth": 0.8,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "tierline",
    "pdf.fonttype": 42,
}
_SAME = 1.03
_PLACE = (0.085, 0.115, 0.56, 0.815)
_KEY_LETTERS = 40
_CROWDED, _CROWDED_SLOPE = 1.35, 1.08


@dataclass(frozen=True, slots=True)
class _Mark:
    """A number in the plot: the names of the operations that share it, and their points, one per format."""

    number: int
    component: str
    name: str
    points: tuple[OperationPoint, ...]


def plot_roofline(roofline: Roofline, path: Path) -> None:
    """Write the plot of `roofline` to `path`; raise InputError for a suffix other than .png, .svg or .pdf.

    Lines are the fast tier's sustained and peak bandwidth, every other link's best known one, and the compute
    ceiling of each format; points are the operations over the fast tier's port, filled where compute binds.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot {path}: want a file that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'tierline[plot]'") from None
    marks = _marks(roofline)
    if not marks:
        raise InputError("no operation of these phases computes anything over a link whose rate is known")
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # keys are checked by matplotlib
        figure = Figure(figsize=(7.4, 4.4))
        axes = figure.add_axes(_PLACE)
        _frame(axes, roofline, marks)
        _roofs(axes, roofline)
        _ceilings(axes, roofline)
        _points(axes, roofline, marks)
        _keys(axes, roofline, marks)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=200, metadata=metadata)


def _marks(roofline: Roofline) -> list[_Mark]:
    """Return the operations to draw, in order of intensity, those too close to tell apart as one."""
    first = roofline.ceilings[0].operands
    drawn = [p for p in roofline.operations if p.flop and _at(p) is not None]
    found: list[tuple[list[str], list[OperationPoint]]] = []
    for name, point in sorted(alike([p for p in drawn if p.operands == first]), key=lambda pair: _x(pair[1])):
        label = f"{name} ({point.layers}x)" if point.layers > 1 else name
        if found and _close(found[-1][1][0], point):
            found[-1][0].append(label)
        else:
            found.append(([label], [point]))
    return [
        _Mark(i + 1, points[0].component, "; ".join(names), tuple(_all_formats(points[0], drawn)))
        for i, (names, points) in enumerate(found)
    ]


def _all_formats(point: OperationPoint, drawn: Sequence[OperationPoint]) -> Iterator[OperationPoint]:
    for other in drawn:
        same = (other.phase, other.component, other.name, other.rows, other.flop)
        if same == (point.phase, point.component, point.name, point.rows, point.flop):
            yield other


def _close(a: OperationPoint, b: OperationPoint) -> bool:
    return (a.phase, a.component) == (b.phase, b.component) and _x(b) / _x(a) < _SAME


def _at(point: OperationPoint) -> tuple[float, float] | None:
    reach = point.reach[0]
    if not reach.operational_intensity or reach.flop_per_s is None:
        return None
    return reach.operational_intensity, reach.flop_per_s


def _x(point: OperationPoint) -> float:
    return point.reach[0].operational_intensity or 0.0


def _frame(axes: "Axes", roofline: Roofline, marks: Sequence[_Mark]) -> None:
    """Set scales, limits and names; every point and every ridge of the fast tier is inside."""
    from matplotlib.ticker import NullFormatter

    spots = [at for mark in marks for p in mark.points if (at := _at(p))]
    left, right = min(x for x, _ in spots) / 3, max(x for x, _ in spots) * 6
    low, high = min(y for _, y in spots), max(y for _, y in spots)
    port = roofline.roofs[0].rate
    rates = [ceiling.rate.value for ceiling in roofline.ceilings if ceiling.rate]
    if port is not None:
        ridges = [rate / port.value for rate in rates]
        left, right = min([left, *(r / 8 for r in ridges)]), max([right, *(r * 8 for r in ridges)])
    high = max([high, *rates])
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(min(low / 5, high / 200), high * 2.5))
    axes.set_xlabel("operational intensity (FLOP per byte)")
    axes.set_ylabel("attainable rate (FLOP/s)")
    phases = ", ".join(dict.fromkeys(p.phase for p in roofline.operations))
    machine = roofline.machine.title or roofline.machine.name
    axes.set_title(_text(f"{roofline.model.name} on {machine}: {phases}"), loc="left")
    axes.grid(visible=True, which="major", linewidth=0.4, color="#d0d0d0")
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _roofs(axes: "Axes", roofline: Roofline) -> None:
    """Draw a line per link: the fast tier's sustained and peak rates apart, of others the best known."""
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    top = max((c.rate.value for c in roofline.ceilings if c.rate), default=top)
    for i, roof in enumerate(roofline.roofs):
        if roof.rate is None:
            continue
        lines = {"peak": roof.rate.peak, "sustained": roof.rate.sustained}
        if not roof.is_port:
            lines = {roof.rate.kind: roof.rate.sustained or roof.rate.peak}
        for kind, number in lines.items():
            if number is None:
                continue
            faint = kind == "peak" and "sustained" in lines and roof.rate.sustained is not None
            start = left * number.value
            axes.plot(
                [left, max(left, top / number.value)], [start, max(top, start)],
                linestyle=(0, (2, 2)) if faint else _LINK_STYLES[i % len(_LINK_STYLES)],
                color="#202020" if roof.is_port else "#707070",
                linewidth=1.4 if roof.is_port and not faint else 0.9,
                label=f"{roof.name}, {number.value / 1e9:,.4g} GB/s {kind}", zorder=2,
            )  # fmt: skip


def _ceilings(axes: "Axes", roofline: Roofline) -> None:
    """Draw the compute ceiling of each format from the fast tier's roof to the right."""
    left, right = axes.get_xlim()
    fastest = roofline.roofs[0].rate
    for ceiling, colour in zip(roofline.ceilings, _FORMAT_COLOURS, strict=False):
        if ceiling.rate is None:
            continue
        rate = ceiling.rate.value
        start = max(left, rate / (fastest.peak or fastest.sustained).value) if fastest else left  # type: ignore[union-attr]
        axes.plot([start, right], [rate, rate], color=colour, linewidth=1.4, zorder=2)
        axes.annotate(
            f"{ceiling.operands}  {_rate(rate)} {ceiling.rate.kind}", (right, rate), xytext=(-4, 3),
            textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip


def _points(axes: "Axes", roofline: Roofline, marks: Sequence[_Mark]) -> None:
    """Draw the operations, numbered; numbers step aside where they are close."""
    colours = dict(zip((c.operands for c in roofline.ceilings), _FORMAT_COLOURS, strict=False))
    sides = {operands: 1 if i % 2 == 0 else -1 for i, operands in enumerate(colours)}
    before: dict[str, tuple[float, int]] = {}
    for mark in marks:
        for point in mark.points:
            at = _at(point)
            if at is None:
                continue
            colour, flat = colours[point.operands], point.reach[0].bound == "compute"
            axes.plot(
                *at, marker=_marker(roofline, mark.component), markersize=5.5, linestyle="none", zorder=4,
                markerfacecolor=colour if flat else "white", markeredgecolor="white" if flat else colour,
                markeredgewidth=0.6 if flat else 1.1,
            )  # fmt: skip
            last, level = before.get(point.operands, (0.0, 0))
            level = (level + 1) % 4 if last and at[0] / last < (_CROWDED if flat else _CROWDED_SLOPE) else 0
            before[point.operands] = (at[0], level)
            _number(axes, mark.number, at, colour, level, side=0 if flat else sides[point.operands])


def _number(
    axes: "Axes", number: int, at: tuple[float, float], colour: str, level: int, *, side: int
) -> None:
    """Write a number below its point (`side` 0), or on a slope to its right (1) or left (-1)."""
    away = side * (6 + 8 * level)
    axes.annotate(
        str(number), at, xytext=(away, -side) if side else (0, -5 - 8 * level), textcoords="offset points",
        ha={0: "center", 1: "left", -1: "right"}[side], va="bottom" if side < 0 else "top", fontsize=7,
        color=colour, zorder=5,
    )  # fmt: skip


def _marker(roofline: Roofline, component: str) -> str:
    components = list(dict.fromkeys(p.component for p in roofline.operations))
    return _MARKERS[components.index(component) % len(_MARKERS)]


def _keys(axes: "Axes", roofline: Roofline, marks: Sequence[_Mark]) -> None:
    """Put the numbered operations beside the plot, the links below them."""
    from matplotlib.lines import Line2D

    parts = {mark.component for mark in marks}
    phases = {mark.points[0].phase for mark in marks}
    lines, labels = [], []
    for mark in marks:
        marker = _marker(roofline, mark.component)
        lines.append(Line2D([], [], marker=marker, color="#404040", markersize=4, linestyle="none"))
        where = " ".join([mark.points[0].phase] * (len(phases) > 1) + [mark.component] * (len(parts) > 1))
        where += ": " if where else ""
        labels.append("\n".join(textwrap.wrap(_text(f"{mark.number}  {where}{mark.name}"), _KEY_LETTERS)))
    for face, says in (("#404040", "bound by compute"), ("white", "bound by memory")):
        line = Line2D([], [], marker="o", color="#404040", markersize=4, linestyle="none")
        line.set_markerfacecolor(face)
        lines.append(line)
        labels.append(says)
    beside = {"frameon": False, "borderaxespad": 0.0, "handletextpad": 0.5, "alignment": "left"}
    operations = axes.legend(
        lines, labels, loc="upper left", bbox_to_anchor=(1.02, 1.0), title="operations", **beside
    )
    axes.add_artist(operations)
    axes.legend(loc="lower left", bbox_to_anchor=(1.02, 0.0), title="links", **beside)


def _text(text: str) -> str:
    """Return `text` printable, and with dollar signs that do not begin a formula."""
    return shown(text).replace("$", r"\$")


def _rate(flop_per_s: float) -> str:
    return f"{flop_per_s / 1e12:,.4g} TFLOP/s" if flop_per_s >= 1e12 else f"{flop_per_s / 1e9:,.4g} GFLOP/s"
