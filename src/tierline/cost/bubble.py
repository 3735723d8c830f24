"""A pipeline of stages: what waiting for the first and the last micro-batch costs.

Sources: Huang et al.: GPipe, arXiv 1811.06965; Narayanan et al.: Efficient large-scale language model
training on GPU clusters using Megatron-LM, arXiv 2104.04473, section 2.2 (1F1B, interleaved schedule).
"""

from collections.abc import Sequence
from typing import Literal

from tierline.cost.amount import Amount

Schedule = Literal["gpipe", "1f1b"]


def bubble_fraction(stages: int, micro_batches: int, chunks: int = 1) -> float:
    """Return the part of the time in which a device of equal stages idles: `(p-1) / (v m + p - 1)`.

    `chunks` is how many pieces of the model each device has (v of the interleaved schedule). GPipe and 1F1B
    idle alike; they differ in memory.
    """
    return (stages - 1) / (chunks * micro_batches + stages - 1)


def pipeline_s(stage_s: Sequence[Amount], micro_batches: int) -> Amount:
    """Return the seconds until the last of `micro_batches` has passed every stage.

    `sum of the stages + (m-1) * the slowest`: each micro-batch follows when the slowest stage is free again.
    """
    return sum(stage_s) + (micro_batches - 1) * max(stage_s)


def round_s(stage_s: Sequence[Amount], micro_batches: int) -> Amount:
    """Return the seconds of one round where each micro-batch comes back to the first stage, as tokens do.

    `max(sum of the stages, m * the slowest)`: a token has to pass every stage before its successor starts,
    and the slowest stage serves every micro-batch.
    """
    return max(sum(stage_s), micro_batches * max(stage_s))


def in_flight(stage: int, stages: int, micro_batches: int, schedule: Schedule = "1f1b") -> int:
    """Return of how many micro-batches stage `stage` (from 0) keeps activations at once.

    GPipe keeps all; 1F1B as many as there are stages from here to the end.
    """
    return micro_batches if schedule == "gpipe" else min(micro_batches, stages - stage)
