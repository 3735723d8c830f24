"""Points of a search, and those of them that no other beats in both respects."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierline.report.figures.figure import Axis, Chart, Series
from tierline.report.figures.palette import GREY, MARKERS, VERMILLION, colour


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
