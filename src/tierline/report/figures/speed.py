"""Speed against what one could buy: memory of the fast tier, and the rate of a link."""

from collections.abc import Iterator
from dataclasses import replace

from tierline.errors import InputError, TierlineError
from tierline.machines.machine import Machine
from tierline.plan.plan import Plan
from tierline.plan.remedies import rebuild, speed, speed_unit
from tierline.report.figures.figure import Axis, Chart, Marker, Rule, Series
from tierline.report.figures.memory import one_device
from tierline.report.figures.palette import BLUE, GREEN, ORANGE, VERMILLION, bytes_axis, rate_axis
from tierline.sim.break_even import break_even, resident_pass_s, streamed_pass
from tierline.sim.options import Options
from tierline.sim.simulate import SimResult, simulate
from tierline.units import format_bytes, format_rate

_PLANNED, _SIMULATED, _RATES = 40, 14, 33
_PASSES = 4
_SPREAD = 16
_MARGIN, _ROOM = 1.15, 1.5


def speed_by_memory(plan: Plan) -> Chart:
    """Return the speed of the main phase over the memory of the fast tier, all of it planned anew.

    The line is the plan's with a fast tier of that size; points are simulated on the machine as it is, whose
    tier may have less free than it has: past that, more cache is slower. Raises InputError where no
    speed is known.
    """
    one_device(plan, "speed over memory")
    whole, allowed = plan.footprint.total_bytes, plan.tiers[0].allowed_bytes
    capacity = plan.tiers[0].capacity_bytes
    most = int(_MARGIN * max(whole, min(allowed, 2 * whole)))
    sizes = sorted({*(most * i // _PLANNED for i in range(1, _PLANNED + 1)), whole - 1, whole})
    planned = [(size, rate) for size in sizes if (rate := speed(_with_memory(plan, size)))]
    if not planned:
        raise InputError(f"{plan.model.name} on {plan.machine.name}: no speed is known at any size of memory")
    unit = speed_unit(plan)
    series = [_planned(planned, unit), *_simulated(plan, min(most, capacity))]
    rules = [Rule("x", whole, f"all of it fits: {format_bytes(whole)}", "dot")]
    if allowed <= most:
        rules.append(Rule("x", allowed, f"{plan.tiers[0].name} allows {format_bytes(allowed)}"))
    return Chart(
        title=f"{plan.model.name} on {plan.machine.name}: speed against memory",
        x=bytes_axis(f"memory of {plan.tiers[0].name}", most, high=most),
        y=Axis("speed", unit),
        series=tuple(series),
        rules=tuple(rules),
    )


def speed_by_link(result: SimResult) -> Chart:
    """Return the simulated speed over the rate of the link that streams, and its break-even point.

    Where everything is resident, it is that of streaming every weight. Raises InputError where nothing can
    be streamed.
    """
    one_device(result.plan, "speed over a link")
    streamed = streamed_pass(result)
    if streamed is None:
        raise InputError(f"{result.plan.machine.name}: nothing can be streamed to its fast tier")
    points = break_even(result)
    own, even = streamed.rate_bytes_per_s, points.resident_rate_bytes_per_s
    low, high = min(own, even or own) / _SPREAD, max(own, even or own) * _SPREAD
    rates = [low * (high / low) ** (i / (_RATES - 1)) for i in range(_RATES)]
    rates = sorted({*rates, own, *([even] if even else [])})
    made = streamed.tokens or 1.0
    unit = "tok/s" if streamed.tokens else "passes/s"
    speeds = tuple(made / streamed.time_s(rate) for rate in rates)
    resident = made / resident_pass_s(result)
    line = Series(
        f"{streamed.strategy} over {streamed.link}",
        "line",
        tuple(rates),
        speeds,
        BLUE,
        hovers=tuple(f"{format_rate(r)}: {s:,.4g} {unit}" for r, s in zip(rates, speeds, strict=True)),
    )
    marks = [_mark("this machine", own, made / streamed.time_s(own), ORANGE, "diamond", unit)]
    if even:
        marks.append(_mark("break-even", even, made / streamed.time_s(even), VERMILLION, "square", unit))
    return Chart(
        title=f"{result.plan.model.name} on {result.plan.machine.name}: speed against {streamed.link}",
        x=replace(rate_axis(f"rate of {streamed.link}", own, log=True), low=low, high=high),
        y=Axis("speed", unit, log=True, low=min(speeds) / _ROOM, high=max(*speeds, resident) * _ROOM),
        series=(line, *marks),
        rules=(Rule("y", resident, f"all resident: {resident:,.3g} {unit}", "dot"),),
    )


def _mark(name: str, rate: float, found: float, colour: str, marker: Marker, unit: str) -> Series:
    says = f"{name}: {found:,.3g} {unit} at {format_rate(rate)}"
    return Series(
        f"{name}, {format_rate(rate)}", "points", (rate,), (found,), colour, marker=marker, hovers=(says,)
    )


def _planned(found: list[tuple[int, float]], unit: str) -> Series:
    return Series(
        "planned, all memory free",
        "line",
        tuple(float(size) for size, _ in found),
        tuple(rate for _, rate in found),
        BLUE,
        hovers=tuple(
            f"{size:,} B ({format_bytes(size)}): at most {rate:,.4g} {unit}" for size, rate in found
        ),
    )


def _with_memory(plan: Plan, size: int) -> Plan:
    """Return the plan on a machine whose fast tier has `size` bytes, all of them free."""
    fast = plan.machine.fast
    capacity = replace(fast.capacity_bytes, value=float(size), kind="assumed", source="asked for")
    tier = replace(fast, capacity_bytes=capacity, free_bytes=None)
    machine: Machine = replace(plan.machine, tiers=(tier, *plan.machine.tiers[1:]))
    return rebuild(plan, machine=machine)


def _simulated(plan: Plan, most: int) -> Iterator[Series]:
    """Yield the simulated speeds as points, where any size can be simulated."""
    main, others = plan.main_phase, plan.footprint.others_bytes
    if main is None:
        return
    passes = (
        _PASSES if main.tokens_per_s else None
    )  # of tokens the last few say it, of steps the first counts
    options = Options(phases=(main.name,), passes=passes, warm=True)
    xs, ys = [], []
    for i in range(1, _SIMULATED + 1):
        size = others + (most - others) * i // _SIMULATED
        try:
            result = simulate(plan, replace(options, capacity_bytes=max(0, size - others)))
        except TierlineError:  # this size is impossible, which the line shows by its absence
            continue
        measured = result.main
        if measured.time_s:
            xs.append(float(size))
            ys.append(measured.tokens_per_s_steady or len(measured.pass_times_s) / measured.time_s)
    if xs:
        unit = speed_unit(plan)
        hovers = tuple(f"{format_bytes(x)}: {y:,.4g} {unit} simulated" for x, y in zip(xs, ys, strict=True))
        yield Series(
            "simulated on this machine", "points", tuple(xs), tuple(ys), GREEN, filled=False, hovers=hovers
        )
