"""The figures of one cell over its runs, worked out from its rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matrix.cells import CAPS, DISKS, MODELS, PEERS, TIERLINE
from matrix.results import Row

_PREDICTIONS = ("foretold", "planned", "simulated")
_LEAST_STEPS, _HELD = 3, 1.15


@dataclass(frozen=True, slots=True)
class Group:
    """All runs of one cell, in the order in which they were made."""

    rows: Sequence[Row]

    @property
    def first(self) -> Row:
        """The first run: what is the same in all of them."""
        return self.rows[0]

    @property
    def ran(self) -> list[Row]:
        """The runs that came to their end with tokens."""
        return [row for row in self.rows if row["result"] and "refused" not in row["result"]]

    @property
    def below_minimum(self) -> bool:
        """Whether the engine refused the memory as too small."""
        return bool(self.first["result"]) and "refused" in self.first["result"]

    @property
    def ours(self) -> bool:
        """Whether it is one of Tierline's cells."""
        return bool(self.first["engine"] == TIERLINE)

    def of(self, name: str) -> list[float]:
        """Return a figure of every run that has it."""
        found = (row["result"].get(name) for row in self.ran)
        return [value for value in found if value is not None]

    def middle(self, name: str) -> float | None:
        """Return the median of a figure over the runs."""
        values = self.of(name)
        return median(values) if values else None

    def errors(self, prediction: str, *, held: bool = False) -> list[float]:
        """Return (predicted - measured) / measured of tok/s of every run: of `foretold`, `planned`, ...

        With `held`, only of runs whose disk held its rate.
        """
        found = []
        for row in self.ran:
            if held and drifted(row):
                continue
            told = row["foretold"] if prediction == "foretold" else (row["plan"] or {}).get(prediction)
            if told and told["tokens_per_s"]:
                found.append(told["tokens_per_s"] / row["result"]["tokens_per_s"] - 1)
        return found

    def floor_fraction(self, *, alone: bool = False) -> float | None:
        """Return the rate over the physical floor's, the median over the runs.

        The floor is `max(compute, (bytes of a pass - (cap - reserve - slots - KV)) / disk rate)`, the disk
        read with O_DIRECT while compute runs, or `alone`.
        """
        found = [_floor_fraction(row, alone=alone) for row in self.ran]
        return median(found) if found and self.ours else None

    @property
    def oom_kills(self) -> int:
        """Processes killed for memory, over all runs."""
        return sum(row["limits"]["oom_kills"] for row in self.rows)


def drifted(row: Row) -> bool:
    """Return whether the steps at the end of a run took other times than those at its beginning.

    The work is the same in each: what changed is the disk, shared with others that nobody here sees.
    """
    steps = (row["result"] or {}).get("step_s") or []
    third = max(1, len(steps) // 3)
    if len(steps) < _LEAST_STEPS:
        return False
    first, last = median(steps[:third]), median(steps[-third:])
    return bool(max(first, last) > _HELD * min(first, last))


def _floor_fraction(row: Row, *, alone: bool) -> float:
    result, rates = row["result"], row["disk_rates"]
    rate = rates["alone_bytes_per_s" if alone else f"beside_{row['format']}_bytes_per_s"]
    rate = min(rate, DISKS[row["disk"]] or rate)  # a sample of a throttled disk may hold a burst
    held = row["memory_bytes"] - result["reserved_bytes"] - result["staging_bytes"] - result["kv_bytes"]
    link_s = max(0.0, result["matrix_bytes"] - held) / rate
    compute_s = result["planned_compute_s"]
    return float(result["tokens_per_s"] * max(compute_s, link_s))


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Return the rows by cell, models and disks in the matrix's order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_place(row), []).append(row)
    return [Group(sorted(groups[place], key=lambda row: row["run"])) for place in sorted(groups)]


def _place(row: Row) -> tuple[Any, ...]:
    engines = (TIERLINE, *PEERS)
    order: Mapping[str, Sequence[Any]] = {"model": MODELS, "engine": engines, "disk": tuple(DISKS)}
    known = {name: values.index(row[name]) if row[name] in values else 99 for name, values in order.items()}
    cap = CAPS.index(row["cap"]) if row["cap"] in CAPS else row["cap"]
    return (known["model"], known["engine"], row["format"], known["disk"], cap)


def accuracy(groups: Iterable[Group], *, held: bool = False) -> dict[str, list[float]]:
    """Return the signed errors of tok/s of every run of Tierline's streamed cells, by prediction.

    With `held`, only of runs whose disk held its rate.
    """
    ours = [group for group in groups if group.ours]
    return {
        name: [error for group in ours for error in group.errors(name, held=held)] for name in _PREDICTIONS
    }
