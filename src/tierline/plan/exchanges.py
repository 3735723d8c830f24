"""What a device exchanges with others in a phase: collectives over the link that joins its group."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tierline.cost.amount import element_bytes
from tierline.cost.collectives import Collective, all_gather, all_to_all, fastest_all_reduce, send
from tierline.cost.costing import Costing
from tierline.cost.passes import PassGroup, pass_groups
from tierline.errors import InputError
from tierline.formats.format import Format
from tierline.machines.machine import Interconnect, Machine
from tierline.models.description import Model, Phase
from tierline.models.share import Exchange
from tierline.models.stages import Shard
from tierline.plan.devices import Group, Use

HAND_OVER = "to the next stage"


@dataclass(frozen=True, slots=True)
class Reach:
    """Over what a device reaches the others of each group, and how many they are."""

    links: Mapping[Group, Interconnect]
    degrees: Mapping[Group, int]


def joining(machine: Machine, indices: tuple[int, ...]) -> Interconnect:
    """Return the fastest interconnect over which the devices at `indices` all reach each other.

    Raises InputError where there is none.
    """
    found = [join for join in machine.interconnects if join.joins(indices)]
    if not found:
        names = " and ".join(machine.devices[i].name for i in indices[:2])
        raise InputError(
            f"{machine.name}: nothing joins {names}; add [interconnects.NAME] to the machine, or split less"
        )
    return max(found, key=lambda join: join.rate.value)


def uses_of(
    shard: Shard,
    phase: Phase,
    workload: Mapping[str, int],
    costing: Costing,
    reach: Reach,
    *,
    hands_over: bool,
) -> Iterator[Use]:
    """Yield the exchanges of a phase for one micro-batch, those that are alike in all layers together.

    `hands_over` adds the rows that go to the next stage of a pipeline.
    """
    number_format = costing.precision.activations
    groups = pass_groups(phase, workload, costing)
    asked: dict[Exchange, list[str]] = {}
    for component in shard.model.components:
        if component.name in phase.components:
            for layer in component.layers:
                for exchange in shard.exchanges[layer.name]:
                    named = replace(exchange, operation=exchange.operation or layer.name)
                    asked.setdefault(named, []).append(layer.name)
    for exchange, layers in asked.items():
        link, devices = reach.links[exchange.group], reach.degrees[exchange.group]
        each = [
            (g.passes, _collective(exchange, devices, g.values(workload), number_format, link))
            for g in groups
        ]
        yield from _use(phase.name, exchange.operation, exchange.group, link, layers, each)
    last = _last_rows(shard.model, phase) if hands_over else None
    if last is not None:
        handed = [(g.passes, send(_handed_bytes(last, g, workload, number_format))) for g in groups]
        yield from _use(phase.name, HAND_OVER, "pp", reach.links["pp"], [HAND_OVER], handed)


def exchange_time_s(collective: Collective, link: Interconnect) -> float:
    """Return the seconds that `collective` takes over `link`."""
    latency_s = link.latency_s.value if link.latency_s else 0.0
    return collective.time_s(link.rate.value, latency_s, link.topology)


def _use(
    phase: str,
    operation: str,
    group: Group,
    link: Interconnect,
    layers: Sequence[str],
    each: Iterable[tuple[int, Collective]],
) -> Iterator[Use]:
    """Yield one use of all passes together, nothing where nothing is sent."""
    made = list(each)
    times = len(layers)
    count = times * sum(passes for passes, _ in made)
    sent = times * sum(passes * _mean_bytes(c) for passes, c in made)
    if sent:
        time_s = times * sum(passes * exchange_time_s(c, link) for passes, c in made)
        yield Use(phase, operation, group, link.name, made[-1][1], tuple(layers), count, sent, time_s)


def _mean_bytes(collective: Collective) -> int:
    """Return what a device of the group sends: all that crosses by all of them, of a send all of it."""
    return collective.total_bytes // (1 if collective.kind == "send" else collective.devices)


def _collective(
    exchange: Exchange, devices: int, values: Mapping[str, int], number_format: Format, link: Interconnect
) -> Collective:
    elements = exchange.rows.evaluate(values) * exchange.width
    if number_format.bits_per_element % 8:  # scales and packed elements travel as bytes
        width, elements = 1, element_bytes(elements, number_format)
    else:
        width = int(number_format.bits_per_element) // 8
    if exchange.kind == "all-to-all":
        return all_to_all(elements * width, devices)
    if exchange.kind == "all-gather":
        return all_gather(elements, devices, width)
    latency_s = link.latency_s.value if link.latency_s else 0.0
    return fastest_all_reduce(elements, devices, width, link.rate.value, latency_s, link.topology)


def _last_rows(model: Model, phase: Phase) -> Exchange | None:
    """Return the rows that leave the last layer of a stage, None where the phase does nothing in it."""
    layers = [
        x for c in model.components if c.name in phase.components for x in c.layers if x.block.operations
    ]
    if not layers:
        return None
    last = layers[-1].block.operations[-1]
    return Exchange("all-gather", "tp", HAND_OVER, last.rows, last.out_features)


def _handed_bytes(
    rows: Exchange, group: PassGroup, workload: Mapping[str, int], number_format: Format
) -> int:
    return int(element_bytes(rows.rows.evaluate(group.values(workload)) * rows.width, number_format))
