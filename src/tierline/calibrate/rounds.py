"""Repeat measurements in rounds, all of them once in each, so that what disturbs one disturbs all alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median, quantiles

Clock = Callable[[], float]
Sampler = Callable[[], float]
Progress = Callable[[str, float, float], None]  # what is measured, seconds done of it, seconds in all


@dataclass(frozen=True, slots=True)
class Group:
    """Samplers by what they measure, run within `beside`: what is kept busy meanwhile."""

    what: str
    samplers: Mapping[str, Sampler]
    beside: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)


@dataclass(frozen=True, slots=True)
class Repeated:
    """The median of repetitions, and half their interquartile range as a fraction of it (None: one alone)."""

    value: float
    spread: float | None


def summarise(samples: Sequence[float]) -> Repeated:
    """Return the median and spread of at least one sample."""
    middle = median(samples)
    if len(samples) == 1 or not middle:
        return Repeated(middle, None)
    first, _, third = quantiles(samples, n=4, method="inclusive")
    return Repeated(middle, (third - first) / 2 / middle)


def interleave(
    groups: Sequence[Group],
    *,
    rounds: int,
    limit_s: float,
    progress: Progress,
    clock: Clock = time.perf_counter,
) -> list[dict[str, Repeated]]:
    """Return what each sampler of each group measured, in the order of `groups`.

    Every round runs every sampler once. All ends after `rounds` of them or, once the first is complete, as
    soon as `limit_s` has passed. `progress` hears of each sample.
    """
    found: list[dict[str, list[float]]] = [{name: [] for name in group.samplers} for group in groups]
    total, done, started_s = rounds * sum(len(group.samplers) for group in groups), 0, clock()
    for number in range(rounds):
        for group, samples in zip(groups, found, strict=True):
            with group.beside():
                for name, sampler in group.samplers.items():
                    elapsed_s = clock() - started_s
                    if number > 0 and elapsed_s > limit_s:
                        break
                    expected_s = min(limit_s, elapsed_s * total / done) if done else limit_s
                    progress(f"{group.what}: {name}", elapsed_s, max(elapsed_s, expected_s))
                    samples[name].append(sampler())
                    done += 1
    return [{name: summarise(samples) for name, samples in group.items()} for group in found]
