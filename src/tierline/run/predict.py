"""What a run will do, from rates measured on this machine just before it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import torch

from tierline.errors import InputError
from tierline.run.experts.expected import Routed
from tierline.run.host_tier import HostTier
from tierline.run.matrix import Matrix, PinnedTile
from tierline.run.overlap import Beside
from tierline.run.pace import Pace
from tierline.run.rehearsed import REHEARSED_STEPS
from tierline.run.staging import READERS, Staging
from tierline.run.weights import WeightPlan
from tierline.units import format_rate

_LEAST_SAMPLE_S, _MOST_SAMPLE_S = 0.5, 1.5
_BURST_RINGS = 2
_HANDOVERS = 24
_ROUNDS = 4
_LEAST_READ_BYTES = 2**23
_MOST_REPEATS, _REPEATED_S = 4, 0.5  # of what is rehearsed: a long pass says enough the first time
_SLOWER_DISK = 0.8  # a sample of half a second varies, but not by this much


@dataclass(frozen=True, slots=True)
class HostReads:
    """Tiles that a host tier reads from disk in every step, each with its bytes in whole sectors.

    `bytes_per_s` is None where it keeps everything.
    """

    reads: Mapping[str, int]
    bytes_per_s: float | None

    @property
    def read_bytes(self) -> int:
        """Bytes of a step that come from disk."""
        return sum(self.reads.values())

    @property
    def link_s(self) -> float:
        """Seconds per token that the disk is busy."""
        return self.read_bytes / self.bytes_per_s if self.bytes_per_s else 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A decode step as planned: `compute_s`, and `read_bytes` over the disk at `read_bytes_per_s`.

    Reads run beside compute, so a step takes the longer of the two; both are as they slow each other
    (`overlap.py`). With `pace` the link is another machine's. `rows` are the tokens that a pass computes
    with: one, and those that it checks as guesses. `links` are read over at once, at `read_bytes_per_s` in
    all. What `routed` experts take is part of both, but they are known only when a router has chosen: no
    compute but that of other experts runs beside their reads, unless they were guessed.
    `prompt_read_bytes` is what a prompt with images reads before its first token, None for one of text.
    """

    compute_s: float
    read_bytes: int
    read_bytes_per_s: float | None
    peak_bytes: int
    pace: Pace | None = None
    host: HostReads | None = None
    rows: int = 1
    links: int = 1
    routed: Routed | None = None
    prompt_read_bytes: int | None = None

    @property
    def link(self) -> str:
        """The name of the link that weights come over."""
        return "disk" if self.pace is None else self.pace.link

    @property
    def step_s(self) -> float:
        """Seconds that a decode step takes."""
        return max(self.compute_s, self.link_s, self.routed_s, self.host_s)

    @property
    def host_s(self) -> float:
        """Seconds per token that the disk before a host tier is busy; 0 without one."""
        return 0.0 if self.host is None else self.host.link_s

    @property
    def unrouted_s(self) -> float | None:
        """Seconds of compute beside which no expert can be read unless it was guessed; None if dense."""
        if self.routed is None:
            return None
        return self.compute_s - self.routed.compute_s + self.routed.last_s

    @property
    def routed_s(self) -> float:
        """Seconds of compute and of reads of experts that follow one another; 0 where none are read."""
        if self.routed is None or not self.read_bytes_per_s:
            return 0.0
        return self.routed.step_s(self.compute_s - self.routed.compute_s, self.read_bytes_per_s)

    @property
    def link_s(self) -> float:
        """Seconds per token that the link is busy."""
        return self.read_bytes / self.read_bytes_per_s if self.read_bytes_per_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Steady decode rate of one sequence."""
        return 1.0 / self.step_s

    @property
    def bound(self) -> str:
        """`compute` or the link, such as `link:disk`."""
        if self.host_s > max(self.link_s, self.compute_s):
            return "link:disk"
        return f"link:{self.link}" if max(self.link_s, self.routed_s) > self.compute_s else "compute"


def paced(prediction: Prediction, pace: Pace, tile_read_bytes: Sequence[int]) -> Prediction:
    """Return `prediction`, made by reading through a paced link, with the rate that the link itself has.

    Raises InputError where the disk gives less than the link it stands for.
    """
    found = prediction.read_bytes_per_s
    if found is None:
        return replace(prediction, pace=pace)
    each = pace.sustained_bytes_per_s(sum(tile_read_bytes) / len(tile_read_bytes), READERS)
    wanted = prediction.links * each
    if found < _SLOWER_DISK * wanted:
        raise InputError(
            f"--pace {pace.name}: this disk gives {format_rate(found)} here, less than the "
            f"{format_rate(wanted)} of the link that it is to stand for; pace by a slower link"
        )
    return replace(prediction, read_bytes_per_s=wanted, pace=pace)


def hosted(prediction: Prediction, pace: Pace, tier: HostTier, plan: WeightPlan) -> Prediction:
    """Return `prediction`, made through a host tier, with what crosses each link and the rates they have.

    The copy link has that of `pace`; the disk is measured here, into the host's memory alone. Raises
    InputError where this computer copies slower than the link it stands for.
    """
    pinned = {unit.name for unit in plan.placement.pinned}
    crossing = [tile.footprint_bytes for tile in plan.tiles if tile.name not in pinned]
    if not crossing:
        return replace(prediction, pace=pace)
    rates = tier.measure()
    alone = pace.sustained_bytes_per_s(max(crossing), 1)
    if rates.copy_bytes_per_s < _SLOWER_DISK * alone:
        raise InputError(
            f"--pace {pace.name}: this computer copies {format_rate(rates.copy_bytes_per_s)}, less than the "
            f"{format_rate(alone)} of the link that it is to stand for; pace by a slower link"
        )
    return replace(
        prediction,
        pace=pace,
        read_bytes=sum(crossing) + plan.row_read_bytes,
        read_bytes_per_s=pace.sustained_bytes_per_s(sum(crossing) / len(crossing), READERS),
        host=HostReads(tier.pass_reads, rates.disk_bytes_per_s),
    )


def measure_link(staging: Staging | None, tiles: int, pass_bytes: int) -> float | None:
    """Return the bytes/s of the disk read by the real schedule alone, None if all is pinned.

    What the ring holds at first is left out: it was read before the clock started, and a throttled disk
    begins with a burst. A sample takes about as long as the `pass_bytes` of a pass.
    """
    if staging is None or not tiles:
        return None
    index = 0
    started_s, before = time.perf_counter(), 0
    settled = False
    while True:
        with staging.borrow(staging.prelude + index):
            pass
        index = (index + 1) % tiles
        read_bytes, now_s = staging.meter.read_bytes, time.perf_counter()
        if not settled and read_bytes >= _BURST_RINGS * staging.ring_bytes:
            settled, started_s, before = True, now_s, read_bytes
        elif settled and _is_enough(now_s - started_s, read_bytes - before >= pass_bytes):
            return (read_bytes - before) / (now_s - started_s)


def _is_enough(sampled_s: float, whole_pass: bool) -> bool:
    return sampled_s > _MOST_SAMPLE_S or (whole_pass and sampled_s > _LEAST_SAMPLE_S)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Steps as rehearsed: seconds of one, and the tiles and bytes that were read for it and passed over."""

    step_s: float
    read_bytes: float = 0.0
    tiles: float = 0.0


Steps = Callable[[int, Callable[[], None]], None]  # takes so many steps, and says when one has ended


def measure_steps(run: Steps, about_s: float, staging: Staging | None = None) -> Rehearsed:
    """Return what steps take that `run` takes, each of about `about_s`; a prompt's end is noted first."""
    noted: list[tuple[float, int, int]] = []

    def note() -> None:
        read = (0, 0) if staging is None else (staging.settled_read_bytes(), staging.settled_tiles)
        noted.append((time.perf_counter(), *read))

    # Several steps, however long they take: one that was held up is not what a step takes.
    run(max(_ROUNDS, min(REHEARSED_STEPS, round(_LEAST_SAMPLE_S / about_s))), note)
    (_, first_bytes, first), (_, last_bytes, last) = noted[0], noted[-1]
    step_s = median(later[0] - before[0] for before, later in pairwise(noted))
    steps = len(noted) - 1
    return Rehearsed(step_s, (last_bytes - first_bytes) / steps, (last - first) / steps)


def besides(alone: Rehearsed, reading: Rehearsed, handover_s: float) -> Beside | None:
    """Return what compute and reads do while both run, from steps without reads and with them.

    What handing tiles over takes is no slowing. None where too little was read to tell.
    """
    if reading.read_bytes * _ROUNDS < _LEAST_READ_BYTES:
        return None
    slowed_s = reading.step_s - reading.tiles * handover_s
    return Beside(max(1.0, slowed_s / alone.step_s), reading.read_bytes / reading.step_s)


def measure_handover(staging: Staging, tiles: int, product: Callable[[], None]) -> float:
    """Return the seconds that taking a tile that is read and giving its place back take, the median.

    A product comes before each, as in a pass: it leaves little of anything else in the caches.
    """
    taken: list[float] = []
    for i in range(_HANDOVERS):
        product()
        staging.fill()
        started_s = time.perf_counter()
        with staging.borrow(staging.prelude + i % tiles):
            pass
        taken.append(time.perf_counter() - started_s)
    return median(taken[1:])  # before the first the read-ahead may have to begin anew


def measure_wide(matrices: Iterable[Matrix], last: Matrix | None, rows: int, dtype: torch.dtype) -> float:
    """Return the seconds that the products of `rows` tokens at once take with all `matrices`.

    One tile of every format and width is used once to warm up and then for time, the quicker of two rounds.
    `last` (the head), multiplied with the last token alone, is timed with one row.
    """
    kinds: dict[tuple[str, int, int], list[Matrix]] = {}
    for m in matrices:
        key = (m.tensor.format, m.tensor.shape[1], 1 if m is last else rows)
        kinds.setdefault(key, []).append(m)
    total_s = 0.0
    for (_, _, count), alike in kinds.items():
        homes = ((m, h) for m in alike for h in m.tiles if isinstance(h, PinnedTile))
        largest = max(homes, key=lambda found: found[1].tile.footprint_bytes, default=None)
        sample = largest or _blank(alike[0])
        seconds = min([_products_s([sample], dtype, count) for _ in range(3)][1:])
        total_s += seconds / sample[1].tile.footprint_bytes * sum(m.tensor.footprint_bytes for m in alike)
    return total_s


def median_s(work: Callable[[], object]) -> float:
    """Return how long `work` takes: the median of up to three times, if it is short, after a first one."""
    taken: list[float] = []
    while len(taken) < _MOST_REPEATS and sum(taken) < _REPEATED_S:
        started_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started_s)
    return median(taken[1:] or taken)


def _products_s(homes: Iterable[tuple[Matrix, PinnedTile]], dtype: torch.dtype, rows: int = 1) -> float:
    inputs: dict[int, torch.Tensor] = {}
    started_s = time.perf_counter()
    for matrix, home in homes:
        columns = matrix.tensor.shape[1]
        if columns not in inputs:
            inputs[columns] = torch.ones(rows, columns, dtype=dtype)
        matrix.kernel.matmul(inputs[columns], home.data, home.tile.stop - home.tile.start)
    return time.perf_counter() - started_s


def _blank(matrix: Matrix) -> tuple[Matrix, PinnedTile]:
    home = matrix.tiles[0]
    return matrix, PinnedTile(home.tile, memoryview(bytearray(home.tile.footprint_bytes)))
