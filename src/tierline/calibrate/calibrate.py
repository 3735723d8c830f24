"""Measure this computer: its disk, its memory and the engine's kernels, alone and beside one another."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.calibrate.budget import Budget
from tierline.calibrate.disk import Disk, measured_file
from tierline.calibrate.memory import Memory, arena_bytes, filled_arena, largest_cache_bytes
from tierline.calibrate.rounds import Group, Repeated, Sampler, interleave
from tierline.errors import InputError
from tierline.machines.calibration import (
    Calibration,
    ExpansionRate,
    Measured,
    ProductRate,
    ReadRate,
    choose_read,
)
from tierline.machines.cgroups import read_limit
from tierline.machines.memory import read_memory
from tierline.sourced import Sourced
from tierline.units import KIB, MIB

if TYPE_CHECKING:
    from tierline.run.measure_compute import ComputeBench

Progress = Callable[[str, float, float], None]  # what is measured, seconds done, seconds left

_PREPARING_S = 5.0
_PROBE_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, and the disk's rate as chosen, in bytes/s.

    `direct` is whether the disk was read past the page cache, `cached` whether part of the memory that was
    measured in can have stayed in the processor's caches.
    """

    calibration: Calibration
    disk: Sourced
    direct: bool
    cached: bool


def measure(path: Path, budget: Budget, source: str, progress: Progress) -> Found:
    """Measure this computer and the disk that holds `path`; every number's source is `source`.

    Raises InputError where that disk cannot be measured or torch is missing, FaultError where a read fails.
    """
    ahead_s = budget.reads_limit_s + budget.compute_limit_s
    progress("preparing: torch", 0.0, _PREPARING_S + ahead_s)
    try:
        from tierline.run.measure_compute import ComputeBench
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install 'tierline[run]'") from None

    with ExitStack() as stack:
        progress("preparing: a file to read", 1.0, budget.fill_s + ahead_s)
        file = stack.enter_context(measured_file(path, budget))
        disk = Disk(file, largest_bytes=max(budget.request_bytes), most_readers=max(budget.readers))
        stack.callback(disk.close)
        cache_bytes = largest_cache_bytes()
        arena = filled_arena(arena_bytes(read_memory().free_bytes, budget.least_arena_bytes, cache_bytes))
        memory = Memory(arena)
        stack.callback(memory.close)
        bench = ComputeBench(arena, rows=budget.matrix_rows, columns=budget.columns)
        stages = _Stages(budget, source, progress)
        sample_s = budget.read_s if read_limit(path) is None else budget.limited_sample_s
        reads = stages.reads(disk, bench, sample_s)
        chosen = stages.chosen(disk, reads)
        calibration = stages.compute(disk, bench, memory, reads)
        return Found(calibration, chosen, direct=file.direct, cached=len(arena) < 2 * cache_bytes)


@dataclass(frozen=True, slots=True)
class _Stages:
    """The stages of one calibration."""

    budget: Budget
    source: str
    progress: Progress

    def reads(self, disk: Disk, bench: "ComputeBench", sample_s: float) -> tuple[ReadRate, ...]:
        """Return the disk's rate at every setting that it is worth trying."""
        from tierline.run.measure_compute import EngineFormat

        settings = {f"{r // KIB} KiB x {n}": (r, n) for r, n in self._settings(disk, sample_s)}
        product = bench.product(EngineFormat("bf16", "bf16"), 1)
        alone: dict[str, Sampler] = {}
        beside: dict[str, Sampler] = {}
        for name, (request_bytes, readers) in settings.items():
            sample = partial(disk.rate, request_bytes, readers, sample_s)
            alone[name], beside[name] = sample, partial(sample, meanwhile=partial(product, 0.0))
        rates, overlapped = self._stage(
            [Group("disk", alone), Group("disk beside products", beside)],
            self.budget.reads_limit_s,
            self.budget.compute_limit_s,
        )
        return tuple(
            ReadRate(request_bytes, readers, self._measured(rates[name], overlapped[name]))
            for name, (request_bytes, readers) in settings.items()
        )

    def chosen(self, disk: Disk, reads: tuple[ReadRate, ...]) -> Sourced:
        """Return the rate of the chosen setting, measured anew: what came out best did so by chance too."""
        budget = self.budget
        sample = partial(disk.rate, *choose_read(reads), budget.chosen_s)
        (found,) = self._stage(
            [Group("disk as chosen", {"reads": sample})],
            budget.rounds * budget.chosen_s * 2,
            budget.compute_limit_s,
        )
        return self._sourced(found["reads"])

    def compute(
        self, disk: Disk, bench: "ComputeBench", memory: Memory, reads: tuple[ReadRate, ...]
    ) -> Calibration:
        """Return everything, `reads` included: compute and memory alone, and while the disk is read."""
        from tierline.run.measure_compute import engine_formats

        budget, seconds = self.budget, self.budget.compute_s
        samplers: dict[str, Sampler] = {
            "memory read": partial(memory.read, budget.memory_s),
            "memory copy": partial(memory.copy, budget.memory_s),
            "module calls": partial(bench.calls(), seconds),
        }
        forms = engine_formats()
        products = {f"{f.stored} in {f.compute}, {n} rows": (f, n) for f in forms for n in budget.batch_rows}
        expansions = {f"expand {f.stored} to {f.compute}": f for f in forms if f.expands}
        samplers |= {key: partial(bench.product(f, n), seconds) for key, (f, n) in products.items()}
        samplers |= {key: partial(bench.expansion(f), seconds) for key, f in expansions.items()}
        busy = partial(disk.reading, *choose_read(reads))
        rates, overlapped = self._stage(
            [Group("compute", samplers), Group("compute beside reads", samplers, busy)],
            budget.compute_limit_s,
            0.0,
        )
        found = {key: self._measured(rates[key], overlapped[key]) for key in samplers}
        return Calibration(
            memory_read=found["memory read"],
            memory_copy=found["memory copy"],
            call=found["module calls"],
            reads=reads,
            products=tuple(
                ProductRate(f.stored, f.compute, n, found[key]) for key, (f, n) in products.items()
            ),
            expansions=tuple(ExpansionRate(f.stored, f.compute, found[key]) for key, f in expansions.items()),
        )

    def _settings(self, disk: Disk, sample_s: float) -> list[tuple[int, int]]:
        """Return (request bytes, readers) to try: the least, and all of which a sample is short enough."""
        budget = self.budget
        probe_bytes = min(_PROBE_BYTES, max(budget.request_bytes))
        bytes_per_s = disk.rate(probe_bytes, max(budget.readers), sample_s)
        most_bytes = bytes_per_s * budget.longest_sample_s
        least = (min(budget.request_bytes), min(budget.readers))
        return [
            (request_bytes, readers)
            for request_bytes in budget.request_bytes
            for readers in budget.readers
            # Each reader reads once before the clock starts and twice after.
            if 3 * request_bytes * readers <= most_bytes or (request_bytes, readers) == least
        ]

    def _stage(self, groups: list[Group], limit_s: float, later_s: float) -> list[dict[str, Repeated]]:
        def show(what: str, done_s: float, all_s: float) -> None:
            self.progress(what, done_s, all_s - done_s + later_s)

        return interleave(groups, rounds=self.budget.rounds, limit_s=limit_s, progress=show)

    def _measured(self, alone: Repeated, overlapped: Repeated) -> Measured:
        return Measured(self._sourced(alone), self._sourced(overlapped))

    def _sourced(self, found: Repeated) -> Sourced:
        return Sourced(found.value, "measured", self.source, found.spread)
