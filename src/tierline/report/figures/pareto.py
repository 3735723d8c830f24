"""Points of a search, and those of them that no other beats in both respects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tierline.errors import InputError
from tierline.report.figures.figure import Axis, Chart, Series
from tierline.report.figures.palette import COLOURS, GREY, MARKERS, VERMILLION, bytes_axis, colour
from tierline.units import format_bytes


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate in base units: `label` names it, `group` is drawn in one colour and marker."""

    label: str
    x: float
    y: float
    group: str = ""
    hover: str = ""


def front(points: Sequence[Point], *, less_x: bool = True, more_y: bool = True) -> tuple[Point, ...]:
    """Return the points that no other beats in one respect without losing in the other, in order of x.

    Less of x is better if `less_x`, more of y if `more_y`. Of equal points the first is kept.
    """
    sign_x, sign_y = (1 if less_x else -1), (-1 if more_y else 1)
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (sign_x * p.x, sign_y * p.y)):
        if not kept or sign_y * point.y < sign_y * kept[-1].y:
            kept.append(point)
    return tuple(sorted(kept, key=lambda p: p.x))


def pareto_chart(
    title: str, points: Sequence[Point], x: Axis, y: Axis, *, less_x: bool = True, more_y: bool = True
) -> Chart:
    """Return all points by group, the front as a line with its labels."""
    best = front(points, less_x=less_x, more_y=more_y)
    groups = dict.fromkeys(point.group for point in points)
    clouds = tuple(
        Series(
            name=group or "candidates",
            kind="points",
            xs=tuple(p.x for p in points if p.group == group),
            ys=tuple(p.y for p in points if p.group == group),
            colour=colour(i) if group else GREY,
            marker=MARKERS[i % len(MARKERS)],
            filled=False,
            hovers=tuple(p.hover or p.label for p in points if p.group == group),
            tags=tuple(p.label if p in best else "" for p in points if p.group == group),
        )
        for i, group in enumerate(groups)
    )
    line = Series(
        "Pareto front", "line", tuple(p.x for p in best), tuple(p.y for p in best), VERMILLION, dash="dash"
    )
    return Chart(title, x, y, (line, *clouds))


def sweep_chart(rows: Sequence[Mapping[str, object]], varied: Sequence[str]) -> Chart:
    """Return the rows of a sweep as speed over the bytes held all the time: all but what is streamed.

    Columns in `varied` label the points; the first of them is drawn in colours where it has few values.
    Simulated speed where there is one, planned otherwise. Raises InputError where no row has a speed.
    """
    simulated = any(row.get("simulated_tokens_per_s") is not None for row in rows)
    speed = "simulated_tokens_per_s" if simulated else "tokens_per_s"
    known = [row for row in rows if row.get(speed) is not None]
    if not known:
        raise InputError("--plot: no row has tokens per second; the column `reason` may say why")
    first = varied[0] if varied and len({row[varied[0]] for row in known}) <= len(COLOURS) else None
    points = [_point(row, speed, varied, first) for row in known]
    most_x, most_y = max(p.x for p in points), max(p.y for p in points)
    return pareto_chart(
        f"{known[0]['model']}: speed over memory, {len(points):,} of {len(rows):,} rows",
        points,
        bytes_axis("memory held, without what is streamed", most_x, high=1.1 * most_x),
        Axis("simulated speed" if simulated else "planned speed", "tok/s", high=1.1 * most_y),
    )


def _point(row: Mapping[str, object], speed: str, varied: Sequence[str], first: str | None) -> Point:
    held, rate = _number(row["total_bytes"]) - _number(row["streamed_bytes"]), _number(row[speed])
    label = ", ".join(_named(name, row[name]) for name in varied if name != first)
    group = _named(first, row[first]) if first else ""
    hover = ", ".join(each for each in (group, label, format_bytes(int(held)), f"{rate:.4g} tok/s") if each)
    return Point(label, held, rate, group, hover)


def _named(column: str, value: object) -> str:
    return f"{column.removesuffix('_tokens')} {value}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
