"""A training step over several devices: what each holds, what they exchange, and how long the step takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from tierline.cost.bubble import in_flight, pipeline_s
from tierline.cost.collectives import ring_all_reduce
from tierline.cost.costing import Costing
from tierline.cost.split import Split
from tierline.cost.training import Training, TrainingFootprint
from tierline.errors import InputError
from tierline.machines.devices import several
from tierline.machines.machine import Machine
from tierline.models.cut import Place
from tierline.models.description import Model
from tierline.models.share import Share
from tierline.models.stages import Shard, shard
from tierline.models.workload import Workload
from tierline.plan.build import compute_rate
from tierline.plan.devices import Options, Ranks
from tierline.plan.exchanges import Reach, exchange_time_s, joining, uses_of
from tierline.plan.parallel import check_split, stages_of
from tierline.plan.phases import seconds
from tierline.plan.shards import Divided, groups_of, own_part
from tierline.plan.training import TrainingPlan, plan_training

# Of the exchanges of a forward pass, one of the backward pass stands against each (Megatron-LM, section 3).
_BACKWARD = 1


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """One device in a step: the plan of one micro-batch on its shard, and what it holds of all.

    `held` has each optimizer state and copy on one of the replicas only where the split says so. Activations
    are those of `in_flight` micro-batches, as 1F1B keeps them.
    """

    name: str
    ranks: Ranks
    step: TrainingPlan
    held: TrainingFootprint
    in_flight: int
    activation_bytes: int
    micro_s: float | None
    exchange_s: float
    reduce_s: float
    update_s: float | None

    @property
    def total_bytes(self) -> int:
        """Everything that it holds."""
        return self.held.total_bytes + self.activation_bytes + self.step.runtime_bytes

    @property
    def fits(self) -> bool:
        """Whether its memory holds that."""
        return self.total_bytes <= self.step.allowed_bytes


@dataclass(frozen=True, slots=True)
class ParallelTraining:
    """A step of all devices. Times are None where one is not known, or something does not fit."""

    model: Model
    machine: Machine
    workload: Workload
    costing: Costing
    training: Training
    split: Split
    layers: tuple[int, ...]
    devices: tuple[DeviceStep, ...]
    time_s: float | None
    bubble_fraction: float | None
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every device holds its part."""
        return all(device.fits for device in self.devices)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens that are trained on per second."""
        rows = self.workload.batch * self.workload.prompt_tokens
        return rows / self.time_s if self.time_s else None


def plan_training_parallel(
    model: Model, machine: Machine, workload: Workload, costing: Costing, training: Training
) -> ParallelTraining:
    """Return a step of `training` split over the devices of `machine` as `costing.split` says.

    The batch is of all replicas together; micro-batches go through the stages as 1F1B has them. Logits are
    not gathered: the loss is computed on each device's words. Raises InputError for a split that is not
    possible.
    """
    split = costing.split
    if split is None or split.auto:
        raise InputError("--training: name the split, such as --parallel tp=2,pp=4,micro=8")
    several(machine)
    check_split(model, machine, workload, split)
    stage_of, layers = stages_of(model, machine, split)
    divided = Divided(model, machine, workload, replace(costing, split=None), Options(), split, stage_of)
    known: dict[tuple[object, ...], tuple[Shard, TrainingPlan]] = {}
    devices = tuple(
        _device(divided, Ranks(tp, pp, ep, dp), index, training, known)
        for index, (pp, dp, ep, tp) in enumerate(
            product(range(split.pp), range(split.dp), range(split.ep), range(split.tp))
        )
    )
    time_s, bubble = _times(devices, split)
    notes = dict.fromkeys(note for d in devices for note in d.step.notes)
    return ParallelTraining(
        model, machine, workload, costing, training, split, layers, devices, time_s, bubble, tuple(notes)
    )


def _device(
    divided: Divided,
    ranks: Ranks,
    index: int,
    training: Training,
    known: dict[tuple[object, ...], tuple[Shard, TrainingPlan]],
) -> DeviceStep:
    split, device = divided.split, divided.machine.devices[index]
    key = (ranks.tp, ranks.pp, ranks.ep, id(device.machine))
    if key not in known:
        place = Place(Share(ranks.tp, split.tp), Share(ranks.ep, split.ep), divided.group_batch)
        part = shard(divided.model, divided.stage_of, ranks.pp, place)
        own = own_part(device.machine, split)
        known[key] = part, plan_training(part.model, own, divided.micro, divided.costing, training)
    part, step = known[key]
    kept = in_flight(ranks.pp, split.pp, split.micro_batches)
    beside = step.activation_bytes - step.kept_bytes
    held = step.footprint
    if split.zero:
        held = replace(
            held,
            master_bytes=-(-held.master_bytes // split.dp),
            optimizer_bytes=-(-held.optimizer_bytes // split.dp),
        )
    return DeviceStep(
        device.name,
        ranks,
        step,
        held,
        kept,
        kept * step.kept_bytes + beside,
        _micro_s(step),
        sum(_exchange_s(divided, part, index, ranks, training)),
        _reduce_s(divided, step, index),
        seconds(step.update_bytes // (split.dp if split.zero else 1), step.machine.fast.rate),
    )


def _micro_s(step: TrainingPlan) -> float | None:
    """Return the seconds of one micro-batch, forward and backward, without the update."""
    rate, _ = compute_rate(step.machine, step.costing.precision.activations.name)
    moved = step.phase.weight_read_bytes + step.phase.activation_traffic_bytes
    times = (seconds(step.flop.total, rate), seconds(moved, step.machine.fast.rate))
    if times[0] is None or times[1] is None:
        return None
    return sum(times) if step.machine.shared_memory else max(times)  # type: ignore[type-var,arg-type]  # known


def _exchange_s(
    divided: Divided, part: Shard, index: int, ranks: Ranks, training: Training
) -> Iterator[float]:
    """Yield the seconds of a micro-batch's exchanges, forward, backward and where a pass is repeated."""
    split = divided.split
    reach = Reach(
        {g: joining(divided.machine, others) for g, others in groups_of(split, index).items()},
        {"tp": split.tp, "ep": split.ep, "pp": split.pp, "dp": split.dp},
    )
    again = training.checkpointing == "full"
    for phase in divided.model.phases:
        if phase.name == "decode":
            continue
        hands_over = ranks.pp < split.pp - 1
        values = divided.micro.values()
        for use in uses_of(part, phase, values, divided.costing, reach, hands_over=hands_over):
            if use.collective.kind != "all-gather":
                yield use.time_s * (1 + _BACKWARD + (again and use.group != "pp"))


def _reduce_s(divided: Divided, step: TrainingPlan, index: int) -> float:
    """Return the seconds in which the replicas sum their gradients, around a ring."""
    split = divided.split
    if split.dp == 1:
        return 0.0
    stride = split.tp * split.ep
    first = index - index // stride % split.dp * stride
    link = joining(divided.machine, tuple(first + i * stride for i in range(split.dp)))
    return exchange_time_s(ring_all_reduce(step.footprint.gradient_bytes, split.dp), link)


def _times(devices: Sequence[DeviceStep], split: Split) -> tuple[float | None, float | None]:
    """Return the seconds of a step, and the part of them in which devices wait for other stages."""
    if not all(d.fits for d in devices) or any(d.micro_s is None or d.update_s is None for d in devices):
        return None, None
    stages = [
        max((d.micro_s or 0.0) + d.exchange_s for d in devices if d.ranks.pp == s) for s in range(split.pp)
    ]
    piped = pipeline_s(stages, split.micro_batches)
    last = max(d.reduce_s + (d.update_s or 0.0) for d in devices)
    return piped + last, 1 - split.micro_batches * sum(stages) / (split.pp * piped)
