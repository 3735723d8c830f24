"""The inverse of a plan: what has to change, and how far, for a goal to be met.

Every answer is a boundary of plans: the value meets the goal, and the next one to it does not. Where the goal
can only change once along the way it is found by bisection, elsewhere every value is tried.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from tierline.errors import InputError, TierlineError
from tierline.machines.machine import Machine, Rate, Tier
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.lodging import main_phase
from tierline.plan.plan import Plan
from tierline.search.axes import Space
from tierline.search.case import Case
from tierline.search.counts import is_valid, workload_of
from tierline.search.evaluate import table_of
from tierline.search.goal import Goal
from tierline.search.options import COUNTS, flag
from tierline.sourced import Sourced

Method = Literal["plan", "bisection", "scan"]
LADDERS: Mapping[str, tuple[str, ...]] = {
    "weights": ("bf16", "int8:channel", "mxfp8", "mxfp6", "nvfp4", "int4:group=64", "mxfp4"),
    "kv": ("bf16", "mxfp8", "mxfp4"),
}
# What is varied along a scale, beside the counts.
LINK, MEMORY = "link", "memory"
_FASTEST, _LARGEST = 10**18, 2**60
_MOST_SCANNED = 2**20
_CHUNK = 2**15
# Counts of which a footprint only grows, as long as the others stay as they are.
_UPTO = {"batch": 4096, "images": 1024, "steps": 1024}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one choice of everything that is listed.

    `given` are the options of the choice, `value` the boundary of what is varied (None: no value does) in its
    own unit: tokens, sequences, bytes, or bytes/s of `subject`. `has` is what there is now, where that is
    known. `plan` is the plan at the boundary, or with nothing changed where there is none.
    """

    given: Mapping[str, str]
    varied: str | None
    subject: str
    value: int | None
    has: float | None
    meets: bool
    method: Method
    scanned: range | None
    plan: Plan | None
    reason: str = ""


def find(space: Space, goal: Goal, varied: str | None, *, link: str | None = None) -> Iterator[Answer]:
    """Yield an answer for every combination of the options that have several values.

    `varied` is a count, `link` (the rate of `link`, or of what binds), `memory` (the fast tier's capacity),
    or None: then every combination is only held against the goal.
    """
    names = [axis.column for axis in space.axes]
    for index in product(*(range(len(axis)) for axis in space.axes)):
        texts: dict[str, list[str]] = {}
        for axis, i in zip(space.axes, index, strict=True):
            texts.setdefault(axis.option, []).append(axis.text(i))
        shown = {
            name: str(axis.values[i])
            for name, axis, i in zip(names, space.axes, index, strict=True)
            if len(axis) > 1 or axis.option in ("model", "on", "weights")
        }
        try:
            yield _one(texts, shown, goal, varied, link)
        except TierlineError as error:
            yield Answer(shown, varied, "", None, None, False, "plan", None, None, str(error))


def best(answers: Sequence[Answer], prices: Mapping[str, float]) -> Answer | None:
    """Return the answer to show first: of those that meet the goal the cheapest, else the first given.

    With a varied link or memory it is the one that needs the least of it, with a count the one with the most.
    """
    met = [a for a in answers if a.meets]
    if not met:
        return None
    if any(_machine_of(a) in prices for a in met):
        return min(met, key=lambda a: prices.get(_machine_of(a), float("inf")))
    if met[0].varied in (LINK, MEMORY):
        return min(met, key=lambda a: a.value or 0)
    if met[0].varied is not None:
        return max(met, key=lambda a: a.value or 0)
    return met[0]


def _machine_of(answer: Answer) -> str:
    return answer.given.get("on", "")


def _one(
    texts: Mapping[str, Sequence[str]],
    shown: Mapping[str, str],
    goal: Goal,
    varied: str | None,
    link: str | None,
) -> Answer:
    case = Case({name: given for name, given in texts.items() if name not in COUNTS})
    counts = {name: int(given[0]) for name, given in texts.items() if name in COUNTS}
    if varied in COUNTS:
        return _along_count(case, counts, shown, goal, varied)
    workload = _workload(case, counts)
    plan = case.plan(workload)
    if varied == LINK:
        return _along_link(case, plan, shown, goal, link)
    if varied == MEMORY:
        return _along_memory(case, plan, shown, goal)
    return Answer(shown, None, "", None, None, goal.met(plan), "plan", None, plan)


def _workload(case: Case, counts: Mapping[str, int]) -> Workload:
    Workload.of(**counts)  # what is wrong with them is said there
    return workload_of(case.model, counts)


def _along_count(
    case: Case, counts: Mapping[str, int], shown: Mapping[str, str], goal: Goal, varied: str
) -> Answer:
    """Return the most of a count that meets the goal, or where speed is asked for the best."""
    split = case.asked.costing.split
    if goal.only_fits and (case.in_arrays or split is not None) and _only_grows(counts, varied):

        def fits(value: int) -> bool:
            asked = {**counts, varied: value}
            return not is_valid(asked, 1)[0] or goal.met(case.plan(workload_of(case.model, asked)))

        least = next((n for n in range(1, 4) if is_valid({**counts, varied: n}, 1)[0]), 1)
        value = _most(fits, least, 10**9)
        plan = case.plan(workload_of(case.model, {**counts, varied: value or least}))
        return Answer(shown, varied, "", value, None, value is not None, "bisection", None, plan)
    if split is not None:
        raise InputError(
            f"--parallel {split}: times of several devices are planned one by one, and {varied} has too many "
            f"values to try; with --fits its largest is found, or give sweep a list: {flag(varied)} 1,8,64"
        )
    return _scanned(case, counts, shown, goal, varied)


def _only_grows(counts: Mapping[str, int], varied: str) -> bool:
    """Return whether every other count stays or grows with this one."""
    return varied not in ("new", "prompt_tokens") or "context" not in counts


def _scanned(
    case: Case, counts: Mapping[str, int], shown: Mapping[str, str], goal: Goal, varied: str
) -> Answer:
    """Try every value; the fastest that meets the goal where the goal bounds a time, else the largest."""
    import numpy as np

    upto = _UPTO.get(varied) or min(_MOST_SCANNED, case.model.max_context or _MOST_SCANNED)
    tried = range(1, upto + 1)
    chosen: tuple[float, int] | None = None
    for start in range(1, upto + 1, _CHUNK):
        values = np.arange(start, min(upto + 1, start + _CHUNK))
        table = table_of(case, {**counts, varied: values}, len(values))
        good = np.flatnonzero(goal.met_in(table))
        if len(good):
            keys = (
                np.nan_to_num(table["tokens_per_s"].values[good]) if goal.wants_throughput(varied) else good
            )
            i = good[len(good) - 1 - int(np.argmax(keys[::-1]))]
            key = float(keys.max()) if goal.wants_throughput(varied) else float(values[i])
            if chosen is None or key >= chosen[0]:
                chosen = key, int(values[i])
    if chosen is None:
        plan = case.plan(_workload(case, counts))
        return Answer(shown, varied, "", None, None, False, "scan", tried, plan)
    plan = case.plan(workload_of(case.model, {**counts, varied: chosen[1]}))
    return Answer(shown, varied, "", chosen[1], None, True, "scan", tried, plan)


def _along_link(case: Case, plan: Plan, shown: Mapping[str, str], goal: Goal, link: str | None) -> Answer:
    """Return the least rate of a link, or of the fast tier's port, that meets the goal: whole bytes/s."""
    machine = plan.machine
    name = link or _binding_link(plan)
    rate = _rate_of(machine, name)
    has = rate.value if rate and (rate.sustained or rate.peak) else None

    def planned(bytes_per_s: int) -> Plan:
        return _on(case, plan, _with_rate(machine, name, bytes_per_s))

    value = _least(lambda r: goal.met(planned(r)), 1, _FASTEST)
    found = planned(value) if value is not None else plan
    return Answer(shown, LINK, name, value, has, value is not None, "bisection", None, found)


def _binding_link(plan: Plan) -> str:
    """Return what to look at: the link that takes longest in the main phase."""
    main = plan.main_phase
    if main is None or not main.links:
        raise InputError(f"{plan.model.name}: no phase of it moves anything; there is no link to vary")
    return max(main.links, key=lambda use: use.time_s if use.time_s is not None else float("inf")).name


def _along_memory(case: Case, plan: Plan, shown: Mapping[str, str], goal: Goal) -> Answer:
    """Return the least capacity of the fast tier that meets the goal, to the byte."""
    machine, name = plan.machine, plan.machine.fast.name
    has = float(machine.fast.capacity_bytes.value)

    def planned(capacity: int) -> Plan:
        return _on(case, plan, _with_capacity(machine, capacity))

    if goal.only_fits:
        value = _least(lambda c: goal.met(planned(c)), 1, _LARGEST)
        found = planned(value) if value is not None else plan
        return Answer(shown, MEMORY, name, value, has, value is not None, "bisection", None, found)
    if plan.parallel is not None:
        raise InputError(
            f"--parallel {plan.costing.split}: memory is varied for --fits alone; for a speed give sweep a "
            f"list: --set {name}.capacity=8GiB,16GiB"
        )
    others, room = plan.footprint.others_bytes, 0
    main = main_phase(case.model, plan.workload.values())
    while True:  # placements change in steps, and not always for the better: each is tried
        found = planned(max(1, others + room))
        if goal.met(found):
            return Answer(shown, MEMORY, name, max(1, others + room), has, True, "scan", None, found)
        high = case.lodged(main, room).span.high
        if high is None:
            return Answer(shown, MEMORY, name, None, has, False, "scan", None, plan)
        room = high


def _on(case: Case, plan: Plan, machine: Machine) -> Plan:
    return plan_with(
        plan.model,
        machine,
        plan.workload,
        plan.costing,
        resident_bytes=case.resident_bytes,
        program_bytes=case.program_bytes,
    )


def _rate_of(machine: Machine, name: str) -> Rate | None:
    if name == machine.fast.name:
        return machine.fast.rate
    joins = (x.rate for x in machine.interconnects if x.name == name)
    return next(joins, None) or machine.link(name).rate


def _with_rate(machine: Machine, name: str, bytes_per_s: int) -> Machine:
    rate = Rate(None, Sourced(float(bytes_per_s), "assumed", f"{flag('overrides')} {name}.sustained"))

    def change(one: Machine) -> Machine:
        if name == one.fast.name:
            return replace(one, tiers=(replace(one.fast, rate=rate), *one.tiers[1:]))
        return replace(
            one,
            links=tuple(replace(x, rate=rate) if x.name == name else x for x in one.links),
            interconnects=tuple(replace(x, rate=rate) if x.name == name else x for x in one.interconnects),
        )

    return _everywhere(machine, change)


def _with_capacity(machine: Machine, capacity_bytes: int) -> Machine:
    name = machine.fast.name
    capacity = Sourced(capacity_bytes, "assumed", f"{flag('overrides')} {name}.capacity")

    def change(one: Machine) -> Machine:
        if one.fast.name != name:
            return one
        fast: Tier = replace(one.fast, capacity_bytes=capacity, free_bytes=None)
        return replace(one, tiers=(fast, *one.tiers[1:]))

    return _everywhere(machine, change)


def _everywhere(machine: Machine, change: Callable[[Machine], Machine]) -> Machine:
    """Return `machine` changed, and every device of it; devices that were one kind stay one."""
    kinds = {id(d.machine): change(d.machine) for d in machine.devices}
    devices = tuple(replace(d, machine=kinds[id(d.machine)]) for d in machine.devices)
    return replace(change(machine), devices=devices)


def _least(good: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the least number from `low` to `high` that is good, where all above a good one are good."""
    if not good(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return high


def _most(good: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the largest number from `low` to `high` that is good, where all below a good one are good."""
    if not good(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low
