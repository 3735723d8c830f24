"""How much more than its share the busiest group of experts gets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import erf, exp, lgamma, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from tierline.cost.collectives import parts
from tierline.cost.traffic import visit_chances
from tierline.models.description import Experts

_MOST_EXACT_VISITS = 512
_NEGLIGIBLE = 1e-9
_STEPS = 4000
_DEVIATIONS = 12.0


def expert_ranges(count: int, devices: int) -> list[range]:
    """Return which of `count` experts each device holds: neighbours, as evenly as whole experts allow."""
    found, first = [], 0
    for size in parts(count, devices):
        found.append(range(first, first + size))
        first += size
    return found


def given_imbalance(experts: Experts, shares: Sequence[float], devices: int) -> float:
    """Return the expected visits of the busiest device over the mean, from how often experts are visited."""
    chances = visit_chances(experts, tuple(shares))
    loads = [sum(chances[i] for i in held) for held in expert_ranges(experts.count, devices)]
    return max(loads) * devices / experts.per_token


@lru_cache(maxsize=1024)
def uniform_imbalance(experts: Experts, rows: int, devices: int) -> float:
    """Return the expected visits of the busiest device over the mean where rows choose uniformly.

    Every row visits `per_token` different experts of all. Loads are taken as drawn without replacement, from
    as many places an expert as give each device its true variance (one for a single row, where that is exact;
    with one expert a token ever more, which is the multinomial): `E[max] = sum over m of 1 - P(all <= m)`, P
    by multiplying the generating functions of the devices. Above 512 visits loads are normal with a fixed
    sum. Tests hold both to sampled routing.
    """
    visits = rows * experts.per_token
    if devices == 1 or not visits:
        return 1.0
    held = parts(experts.count, devices)
    fewest = _most_normal if visits > _MOST_EXACT_VISITS else _most_exact
    most = min(fewest(experts, rows, held), rows * min(experts.per_token, max(held)))
    return max(1.0, most * devices / visits)


def _most_exact(experts: Experts, rows: int, held: list[int]) -> float:
    """Return the expected largest of independent loads, given that they sum to all visits."""
    visits, count = rows * experts.per_token, experts.count
    if experts.per_token == count:
        return float(rows * max(held))
    loads = {size: _chances(experts, rows, size) for size in set(held)}
    whole = _ways(loads, held, visits, visits)
    most = 0.0
    for limit in range(visits):
        missing = 1 - _ways(loads, held, visits, limit) / whole
        if missing < _NEGLIGIBLE:
            break
        most += missing
    return most


def _chances(experts: Experts, rows: int, held: int) -> NDArray[np.float64]:
    """Return numbers in proportion to the chances of 0, 1, ... visits of a device: binomial, or Poisson."""
    visits, count, chosen = rows * experts.per_token, experts.count, experts.per_token
    share = held / count
    if chosen == 1:
        mean = visits * share
        logs = [j * log(mean) - lgamma(j + 1) - mean for j in range(visits + 1)]
        return np.array([exp(x) for x in logs])
    kept = (count - chosen) / (count - 1)  # of the variance of independent visits
    places = (visits - kept) / (1 - kept)
    own, chance = places * share, visits / places
    logs = [
        lgamma(own + 1) - lgamma(j + 1) - lgamma(own - j + 1) + j * log(chance) + (own - j) * log1p(-chance)
        for j in range(min(int(own + _NEGLIGIBLE), visits) + 1)
    ]
    return np.array([exp(x) for x in logs])


def _ways(loads: Mapping[int, NDArray[np.float64]], held: list[int], visits: int, limit: int) -> float:
    """Return the weight of all loads that sum to `visits`, none of them above `limit`."""
    below = np.array([1.0])
    for size, repeated in Counter(held).items():
        below = np.convolve(below, _power(loads[size][: limit + 1], repeated, visits))[: visits + 1]
    return float(below[visits]) if len(below) > visits else 0.0


def _power(series: NDArray[np.float64], exponent: int, most: int) -> NDArray[np.float64]:
    """Return a power series to the power `exponent`, by squaring, up to the power `most` of its variable."""
    total = np.array([1.0])
    while exponent:
        if exponent % 2:
            total = np.convolve(total, series)[: most + 1]
        exponent //= 2
        if exponent:
            series = np.convolve(series, series)[: most + 1]
    return total


def _most_normal(experts: Experts, rows: int, held: list[int]) -> float:
    """Return the expected largest load of many: normal ones that always have the same sum."""
    count, chosen, devices = experts.count, experts.per_token, len(held)
    share = max(held) / count
    variance = rows * chosen * share * (1 - share) * (count - chosen) / max(1, count - 1)
    return rows * chosen * share + sqrt(variance / (1 - 1 / devices)) * _normal_most(devices)


def _normal_most(draws: int) -> float:
    """Return the expected largest of `draws` standard normal numbers, by the trapezoid rule."""
    grid = np.linspace(-_DEVIATIONS, _DEVIATIONS, _STEPS)
    below = np.array([0.5 * (1 + erf(x / sqrt(2))) for x in grid]) ** draws
    step = float(grid[1] - grid[0])
    # E[max] = integral over x > 0 of 1 - F - integral over x < 0 of F
    return float(np.sum(np.where(grid >= 0, 1 - below, -below))) * step
