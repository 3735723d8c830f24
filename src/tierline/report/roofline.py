"""The roofline of every operation: its intensity, what it can attain over each link, and what binds it.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009, with one roof per link. Over the fast tier's own
port an operation moves its weights, its keys and values, and its activations under the stated policy; over
any other link its weights alone, as if they were streamed from there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tierline.cost.costing import Costing
from tierline.cost.operations import operation_costs
from tierline.cost.passes import PassGroup, pass_groups
from tierline.cost.weights import ModelWeights, weigh
from tierline.errors import InputError
from tierline.machines.machine import Machine, Rate
from tierline.models.description import Model, Phase
from tierline.models.workload import Workload
from tierline.plan.build import compute_rate
from tierline.report.names import joined, short


@dataclass(frozen=True, slots=True)
class Roof:
    """A link, or the fast tier's own port under the tier's name; `is_port` tells. `rate` None: not known."""

    name: str
    rate: Rate | None
    is_port: bool


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What computes operands of `operands` (a number format) and how fast; `rate` None where not known."""

    operands: str
    rate: Rate | None
    note: str


@dataclass(frozen=True, slots=True)
class Attainable:
    """What an operation can reach over one link: `min(peak, intensity * bandwidth)`, and which of them it is.

    `operational_intensity` is FLOP per byte of the link, None where nothing crosses it. `flop_per_s` takes
    the sustained rates where known, `peak_flop_per_s` the peaks; None where no rate of the link is known.
    Where none of compute is known they are what the link allows: at most that.
    """

    link: str
    operational_intensity: float | None
    flop_per_s: float | None
    peak_flop_per_s: float | None
    bound: str | None


@dataclass(frozen=True, slots=True)
class OperationPoint:
    """One operation in one pass of a phase; `layers` are alike, bytes and FLOP are of one of them."""

    phase: str
    component: str
    name: str
    operands: str
    layers: int
    passes: int
    rows: int
    flop: int
    weight_read_bytes: int
    kv_bytes: int
    activation_bytes: int
    reach: tuple[Attainable, ...]

    @property
    def port_bytes(self) -> int:
        """Bytes over the fast tier's port."""
        return self.weight_read_bytes + self.kv_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True)
class ComponentTotal:
    """A component in all passes of a phase, its operations one after the other at their rooflines.

    `time_s` and `attained_flop_per_s` are over the fast tier's port; None where its rate is not known.
    """

    phase: str
    component: str
    operands: str
    flop: int
    port_bytes: int
    operational_intensity: float | None
    time_s: float | None
    attained_flop_per_s: float | None


@dataclass(frozen=True, slots=True)
class Roofline:
    """Roofs, ceilings, totals, and operations in execution order, of a model on a machine.

    `ceilings` are those of the costings, `peaks` of every format that the machine has a rate for.
    """

    model: Model
    machine: Machine
    workload: Workload
    costings: tuple[Costing, ...]
    roofs: tuple[Roof, ...]
    ceilings: tuple[Ceiling, ...]
    peaks: tuple[Ceiling, ...]
    operations: tuple[OperationPoint, ...]
    components: tuple[ComponentTotal, ...]


def build_roofline(
    model: Model,
    machine: Machine,
    workload: Workload,
    costings: Sequence[Costing],
    phases: Sequence[str] = (),
) -> Roofline:
    """Return the roofline of the last pass of each phase (`phases` empty: all of them), once per costing.

    Each costing brings its own number formats. Raises InputError for a phase that the model has not or that
    the workload does not run, and for a model without phases.
    """
    chosen = _phases(model, phases)
    roofs = (
        Roof(machine.fast.name, machine.fast.rate, is_port=True),
        *(Roof(link.name, link.rate, is_port=False) for link in machine.links),
    )
    ceilings = tuple(_ceiling(machine, costing.precision.activations.name) for costing in costings)
    named = dict.fromkeys(name for unit in machine.compute for name in unit.flop_per_s)
    peaks = tuple(_ceiling(machine, name) for name in named)
    points: list[OperationPoint] = []
    for costing, ceiling in zip(costings, ceilings, strict=True):
        weights = weigh(model, costing.precision)
        for phase in chosen:
            group = pass_groups(phase, workload.values(), costing)[-1]
            for component in phase.components:
                found = _points(weights, phase, component, group, workload, costing)
                points += [_placed(point, roofs, ceiling) for point in _merged(found)]
    if not points:
        raise InputError(
            f"the workload makes no pass of {', '.join(p.name for p in chosen)}: give --images or --new"
        )
    totals = tuple(_totals(points, roofs[0], ceilings))
    return Roofline(model, machine, workload, tuple(costings), roofs, ceilings, peaks, tuple(points), totals)


def _phases(model: Model, names: Sequence[str]) -> tuple[Phase, ...]:
    known = [phase.name for phase in model.phases]
    if not known:
        raise InputError(f"{model.name}: its passes are not known, so that it has no roofline")
    for name in names:
        if name not in known:
            raise InputError(f"--phase {name!r}: {model.name} has {', '.join(known)}")
    return tuple(phase for phase in model.phases if not names or phase.name in names)


def _ceiling(machine: Machine, operands: str) -> Ceiling:
    rate, note = compute_rate(machine, operands)
    return Ceiling(operands, rate, note)


def _points(
    weights: ModelWeights,
    phase: Phase,
    component: str,
    group: PassGroup,
    workload: Workload,
    costing: Costing,
) -> Iterator[OperationPoint]:
    """Yield the operations of each kind of layer that have rows in this pass."""
    values = group.values(workload.values())
    first = {id(e.weights): e.layer.name for e in reversed(weights.by_component[component])}
    for kind, layers in weights.kinds((component,)):
        for cost in operation_costs(kind, phase, values, costing):
            rows = int(cost.operation.rows.evaluate(values))
            if rows and group.passes:
                yield OperationPoint(
                    phase=phase.name,
                    component=component,
                    name=cost.operation.name or short(first[id(kind)]),
                    operands="",
                    layers=layers,
                    passes=1 if cost.once else group.passes,
                    rows=rows,
                    flop=int(cost.flop),
                    weight_read_bytes=int(cost.weight_read_bytes),
                    kv_bytes=int(cost.kv_read_bytes + cost.kv_write_bytes),
                    activation_bytes=int(cost.activation_bytes),
                    reach=(),
                )


def _placed(point: OperationPoint, roofs: Sequence[Roof], ceiling: Ceiling) -> OperationPoint:
    reach = tuple(_over(point, roof, ceiling) for roof in roofs)
    return replace(point, operands=ceiling.operands, reach=reach)


def alike(points: Sequence[OperationPoint]) -> list[tuple[str, OperationPoint]]:
    """Return the points without those that differ from another in name only, under all of their names."""
    names: dict[OperationPoint, list[str]] = {}
    for point in points:
        names.setdefault(replace(point, name=""), []).append(point.name)
    return [(joined(called), replace(key, name=called[0])) for key, called in names.items()]


def _merged(points: Iterable[OperationPoint]) -> list[OperationPoint]:
    """Return the points with equal ones of several kinds of layers counted together."""
    counts: dict[OperationPoint, int] = {}
    for point in points:
        key = replace(point, layers=0)
        counts[key] = counts.get(key, 0) + point.layers
    return [replace(point, layers=count) for point, count in counts.items()]


def _over(point: OperationPoint, roof: Roof, ceiling: Ceiling) -> Attainable:
    moved = point.port_bytes if roof.is_port else point.weight_read_bytes
    if not moved:
        return Attainable(
            roof.name, None, _value(ceiling.rate), _peak(ceiling.rate), "compute" if point.flop else None
        )
    intensity = point.flop / moved
    usual, bound = _least(_value(ceiling.rate), _value(roof.rate), intensity, roof.name)
    at_peak, _ = _least(_peak(ceiling.rate), _peak(roof.rate), intensity, roof.name)
    return Attainable(roof.name, intensity, usual, at_peak, bound)


def _least(
    compute: float | None, bandwidth: float | None, intensity: float, link: str
) -> tuple[float | None, str | None]:
    if bandwidth is None:
        return None, None
    if compute is None or intensity * bandwidth < compute:
        return intensity * bandwidth, f"link:{link}"
    return compute, "compute"


def _value(rate: Rate | None) -> float | None:
    return rate.value if rate and (rate.sustained or rate.peak) else None


def _peak(rate: Rate | None) -> float | None:
    if rate is None:
        return None
    return rate.peak.value if rate.peak else _value(rate)


def _totals(
    points: Sequence[OperationPoint], port: Roof, ceilings: Sequence[Ceiling]
) -> Iterator[ComponentTotal]:
    """Yield the totals of each component in each phase and format."""
    rates = {ceiling.operands: _value(ceiling.rate) for ceiling in ceilings}
    groups: dict[tuple[str, str, str], list[OperationPoint]] = {}
    for point in points:
        groups.setdefault((point.operands, point.phase, point.component), []).append(point)
    for (operands, phase, component), members in groups.items():
        times = [(p.layers * p.passes, p.flop, p.port_bytes) for p in members]
        flop = sum(n * each for n, each, _ in times)
        moved = sum(n * each for n, _, each in times)
        seconds = _seconds(times, rates[operands], _value(port.rate))
        attained = flop / seconds if seconds else None
        intensity = flop / moved if moved else None
        yield ComponentTotal(phase, component, operands, flop, moved, intensity, seconds, attained)


def _seconds(
    parts: Sequence[tuple[int, int, int]], compute: float | None, bandwidth: float | None
) -> float | None:
    if bandwidth is None:
        return None
    return sum(n * max(flop / compute if compute else 0.0, moved / bandwidth) for n, flop, moved in parts)
