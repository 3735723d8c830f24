"""The roofline as a chart: a slope per link, a ceiling per format, a numbered point per operation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tierline.errors import InputError
from tierline.report.figures.figure import Axis, Chart, KeyEntry, Marker, Series
from tierline.report.figures.palette import COLOURS, DASHES, MARKERS, flop_rate_axis
from tierline.report.roofline import OperationPoint, Roof, Roofline, alike

_SAME = 1.03


@dataclass(frozen=True, slots=True)
class _Mark:
    """A number in the chart: the names of the operations that share it, and their points, one per format."""

    number: int
    component: str
    name: str
    points: tuple[OperationPoint, ...]


def roofline_chart(roofline: Roofline) -> Chart:
    """Return the chart of `roofline`; raise InputError where no operation has a place in it.

    Lines are the fast tier's sustained and peak bandwidth, every other link's best known one, and the compute
    ceiling of each format; points are the operations over the fast tier's port, filled where compute binds.
    """
    marks = _marks(roofline)
    if not marks:
        raise InputError("no operation of these phases computes anything over a link whose rate is known")
    x, y = _axes(roofline, marks)
    series = (*_slopes(roofline, x, y), *_ceilings(roofline, x), *_points(roofline, marks))
    phases = ", ".join(dict.fromkeys(p.phase for p in roofline.operations))
    machine = roofline.machine.title or roofline.machine.name
    return Chart(
        title=f"{roofline.model.name} on {machine}: {phases}",
        x=x,
        y=y,
        series=series,
        key_title="operations",
        key=tuple(_key(roofline, marks)),
        legend_title="links",
    )


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
    """Yield the point, then the same operation in the other formats.

    Layers that differ in the format of a tensor have points of their own in each.
    """
    yield point
    wanted = (point.phase, point.component, point.name, point.rows, point.flop)
    for other in drawn:
        same = (other.phase, other.component, other.name, other.rows, other.flop) == wanted
        if same and other.operands != point.operands:
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


def _axes(roofline: Roofline, marks: Sequence[_Mark]) -> tuple[Axis, Axis]:
    """Return axes with every point and every ridge of the fast tier inside."""
    spots = [at for mark in marks for p in mark.points if (at := _at(p))]
    left, right = min(x for x, _ in spots) / 3, max(x for x, _ in spots) * 6
    low, high = min(y for _, y in spots), max(y for _, y in spots)
    port = roofline.roofs[0].rate
    rates = [ceiling.rate.value for ceiling in roofline.ceilings if ceiling.rate]
    if port is not None:
        ridges = [rate / port.value for rate in rates]
        left, right = min([left, *(r / 8 for r in ridges)]), max([right, *(r * 8 for r in ridges)])
    high = max([high, *rates])
    unit = flop_rate_axis("attainable rate", high)
    x = Axis("operational intensity", "FLOP per byte", log=True, low=left, high=right)
    return x, Axis(unit.title, unit.unit, unit.scale, True, min(low / 5, high / 200), high * 2.5)


def _slopes(roofline: Roofline, x: Axis, y: Axis) -> Iterator[Series]:
    """Yield a line per link: the fast tier's sustained and peak rates apart, of others the best known."""
    left, top = x.low or 0.0, y.high or 0.0
    top = max((c.rate.value for c in roofline.ceilings if c.rate), default=top)
    for i, roof in enumerate(roofline.roofs):
        for kind, rate in _rates(roof):
            faint = (
                kind == "peak" and roof.is_port and roof.rate is not None and roof.rate.sustained is not None
            )
            start = left * rate
            yield Series(
                name=f"{roof.name}, {rate / 1e9:,.4g} GB/s {kind}",
                kind="line",
                xs=(left, max(left, top / rate)),
                ys=(start, max(top, start)),
                colour="ink" if roof.is_port else "faint",
                dash="dot" if faint else DASHES[i % len(DASHES)],
                width=1.4 if roof.is_port and not faint else 0.9,
            )


def _rates(roof: Roof) -> Iterator[tuple[str, float]]:
    if roof.rate is None:
        return
    best = roof.rate.sustained or roof.rate.peak
    numbers = {"peak": roof.rate.peak, "sustained": roof.rate.sustained}
    for kind, number in numbers.items() if roof.is_port else ((roof.rate.kind, best),):
        if number is not None:
            yield kind, number.value


def _ceilings(roofline: Roofline, x: Axis) -> Iterator[Series]:
    """Yield the compute ceiling of each format, from the fast tier's roof to the right."""
    left, right = x.low or 0.0, x.high or 0.0
    port = roofline.roofs[0].rate
    fastest = port and (port.peak or port.sustained)
    for ceiling, colour in zip(roofline.ceilings, COLOURS, strict=False):
        if ceiling.rate is None:
            continue
        rate = ceiling.rate.value
        start = max(left, rate / fastest.value) if fastest else left
        label = f"{ceiling.operands}  {_flop_rate(rate)} {ceiling.rate.kind}"
        yield Series(label, "line", (start, right), (rate, rate), colour, tags=("", label), in_legend=False)


def _points(roofline: Roofline, marks: Sequence[_Mark]) -> Iterator[Series]:
    """Yield the numbered operations: a series per format, component and bound."""
    colours = dict(zip((c.operands for c in roofline.ceilings), COLOURS, strict=False))
    groups: dict[tuple[str, str, bool], list[tuple[_Mark, OperationPoint]]] = {}
    for mark in marks:
        for point in mark.points:
            key = (point.operands, mark.component, point.reach[0].bound == "compute")
            groups.setdefault(key, []).append((mark, point))
    for (operands, component, flat), members in groups.items():
        spots = [_at(point) or (0.0, 0.0) for _, point in members]
        yield Series(
            name=f"{component}, {operands}, bound by {'compute' if flat else 'memory'}",
            kind="points",
            xs=tuple(x for x, _ in spots),
            ys=tuple(y for _, y in spots),
            colour=colours[operands],
            marker=_marker(roofline, component),
            filled=flat,
            hovers=tuple(_hover(mark, point) for mark, point in members),
            tags=tuple(str(mark.number) for mark, _ in members),
            in_legend=False,
        )


def _hover(mark: _Mark, point: OperationPoint) -> str:
    reach = point.reach[0]
    return (
        f"{mark.number} {mark.name}: {point.flop:,} FLOP / {point.port_bytes:,} B = "
        f"{reach.operational_intensity or 0:,.4g} FLOP per byte; "
        f"attains {_flop_rate(reach.flop_per_s or 0)}, bound by {reach.bound}; "
        f"weights {point.weight_read_bytes:,} B, KV {point.kv_bytes:,} B, "
        f"activations {point.activation_bytes:,} B"
    )


def _key(roofline: Roofline, marks: Sequence[_Mark]) -> Iterator[KeyEntry]:
    parts = {mark.component for mark in marks}
    phases = {mark.points[0].phase for mark in marks}
    for mark in marks:
        where = " ".join([mark.points[0].phase] * (len(phases) > 1) + [mark.component] * (len(parts) > 1))
        text = f"{mark.number}  {where + ': ' if where else ''}{mark.name}"
        yield KeyEntry(_marker(roofline, mark.component), text)
    yield KeyEntry("circle", "bound by compute")
    yield KeyEntry("circle", "bound by memory", filled=False)


def _marker(roofline: Roofline, component: str) -> Marker:
    components = list(dict.fromkeys(p.component for p in roofline.operations))
    return MARKERS[components.index(component) % len(MARKERS)]


def _flop_rate(flop_per_s: float) -> str:
    if flop_per_s >= 1e12:
        return f"{flop_per_s / 1e12:,.4g} TFLOP/s"
    return f"{flop_per_s / 1e9:,.4g} GFLOP/s"
