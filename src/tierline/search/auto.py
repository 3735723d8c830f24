"""`--auto`: placement, depth, chunk and batch by search, every step simulated as a command would be."""

from collections.abc import Iterator
from dataclasses import dataclass

from tierline.errors import BudgetError, TierlineError
from tierline.search.command import Given, changed, command, simulated
from tierline.sim.options import PINNING, POLICIES
from tierline.sim.simulate import SimResult

# What is chosen. What the user gives of these is kept, and the rest chosen around it.
CHOSEN = ("strategy", "policy", "granularity", "tile", "prefetch_depth", "prefill_chunk", "batch")
_DEPTHS, _TILES, _CHUNKS = (1, 2, 3, 4, 8), ("4MiB", "32MiB"), (64, 256, 1024)
_BEST = 3
_MOST_BATCH = 4096
_WORTHWHILE = 1 + 1e-9  # less is noise of the last digits


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best that was found: `options` were chosen, `given` are all options, `tried` were simulated."""

    options: Given
    given: Given
    result: SimResult
    tried: int

    @property
    def batch(self) -> int:
        """Sequences at once."""
        return self.result.plan.workload.batch

    @property
    def prefill_chunk(self) -> int | None:
        """Rows of the prompt in a pass, None for all at once."""
        return self.result.plan.costing.prefill_chunk

    @property
    def prefetch_depth(self) -> int:
        """Staging slots."""
        return self.result.options.prefetch_depth or self.result.plan.prefetch_depth

    @property
    def command(self) -> str:
        """The command that does the same without a search."""
        return command("simulate", self.given)


def choose(given: Given) -> Chosen:
    """Return the fastest way to do what the options ask, by the time of a sequence, prompt included.

    First every strategy with every policy, then around the best three the pieces and the depth, then the
    chunk of the prompt and the batch. Raises BudgetError where nothing runs, with why the first did not.
    """
    search = _Search(given)
    search.widen([{}], _placements())
    search.widen(search.best(_BEST), _pieces())
    search.widen(search.best(_BEST), [{"prefetch_depth": (str(depth),)} for depth in _DEPTHS])
    search.widen(search.best(1), [{"prefill_chunk": (str(rows),)} for rows in _CHUNKS])
    search.grow_batch()
    return search.chosen()


def _placements() -> Iterator[Given]:
    yield {}
    for strategy in ("resident", "host-stream"):
        yield {"strategy": (strategy,)}
    for policy in PINNING:
        for strategy in ("tiered", "kv-offload"):
            yield {"strategy": (strategy,), "policy": (policy,)}
    for policy in POLICIES:
        yield {"strategy": ("layer-swap",), "policy": (policy,)}


def _pieces() -> Iterator[Given]:
    for tile in _TILES:
        yield {"granularity": ("tile",), "tile": (tile,)}


class _Search:
    """Simulations so far, by what was chosen in them."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._fixed = frozenset(name for name in CHOSEN if name in given)
        self._found: dict[tuple[tuple[str, str], ...], tuple[float, Given, SimResult]] = {}
        self._seen: set[tuple[tuple[str, str], ...]] = set()
        self._refused: TierlineError | None = None

    def widen(self, starts: list[Given], changes: "Iterator[Given] | list[Given]") -> None:
        """Simulate every change of every start."""
        for change in list(changes):
            if not self._fixed & set(change):
                for start in starts:
                    self._try({**start, **change})

    def best(self, count: int) -> list[Given]:
        """Return the fastest choices so far, the first tried of equals."""
        ranked = sorted(self._found.values(), key=lambda found: found[0])
        return [options for _, options, _ in ranked[:count]]

    def grow_batch(self) -> None:
        """Double the batch as long as sequences get faster."""
        if "batch" in self._fixed or not self._found:
            return
        batch, before = 2, min(found[0] for found in self._found.values())
        start = self.best(1)[0]
        while batch <= _MOST_BATCH:
            reached = self._try({**start, "batch": (str(batch),)})
            if reached is None or reached * _WORTHWHILE >= before:
                return
            before, batch = reached, 2 * batch

    def chosen(self) -> Chosen:
        """Return the fastest, and of what is as fast the one that was tried first."""
        if not self._found:
            raise self._refused or BudgetError("nothing that was tried runs")
        fastest = min(found[0] for found in self._found.values())
        _, options, result = next(f for f in self._found.values() if f[0] <= fastest * _WORTHWHILE)
        return Chosen(options, changed(self._given, options), result, len(self._seen))

    def _try(self, options: Given) -> float | None:
        key = tuple(sorted((name, texts[0]) for name, texts in options.items()))
        if key in self._seen:
            return self._found[key][0] if key in self._found else None
        self._seen.add(key)
        try:
            result = simulated(changed(self._given, options))
        except TierlineError as error:
            self._refused = self._refused or error
            return None
        reached = result.time_s / result.plan.workload.batch
        self._found[key] = reached, options, result
        return reached
