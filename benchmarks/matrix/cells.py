"""The cells of the matrix, in the order of what they are worth."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

MODELS = ("llama-3.2-1b", "llama-3.2-3b")
TIERLINE = "tierline"
PEERS: dict[str, str] = {
    "llama.cpp mmap": "q8_0",
    "llama.cpp mmap, locked": "q8_0",
    "transformers mmap": "bf16",
    "accelerate offload": "bf16",
    "airllm": "bf16",
    "llama.cpp no mmap": "q8_0",
    "llama.cpp direct io": "q8_0",
}
FORMATS = ("bf16", "int8")
MORE_FORMATS = ("int4", "q4_k_m")  # run where they are asked for
CAPS = (1.1, 1.5, 3.0)
PEER_CAP = 1.5
DISKS: dict[str, float | None] = {"2GB/s": 2e9, "500MB/s": 5e8, "unthrottled": None}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a model in a format by an engine, its file over `cap` as memory, on a disk; `run` counts."""

    model: str
    engine: str
    format: str
    cap: float
    disk: str
    run: int

    def key(self, machine: str) -> str:
        """Return what tells this cell's result from all others."""
        return "|".join([*(str(value) for value in asdict(self).values()), machine])


@dataclass(frozen=True, slots=True)
class Subset:
    """Which cells are wanted."""

    models: Sequence[str] = MODELS
    engines: Sequence[str] = (TIERLINE, *PEERS)
    formats: Sequence[str] = FORMATS
    caps: Sequence[float] = CAPS
    disks: Sequence[str] = tuple(DISKS)
    runs: int = 3

    def cells(self) -> list[Cell]:
        """Return the cells, the most telling first: its neighbours follow, and the repeats come last.

        The most telling is the first model on the first disk at the peers' cap. Peers run once, at that cap.
        """
        return sorted([*self._tierline(), *self._peers()], key=_distance)

    def _tierline(self) -> Iterable[Cell]:
        if TIERLINE not in self.engines:
            return
        for run, model, disk, cap, form in product(
            range(self.runs), self.models, self.disks, self.caps, self.formats
        ):
            yield Cell(model, TIERLINE, form, cap, disk, run)

    def _peers(self) -> Iterable[Cell]:
        if PEER_CAP not in self.caps:
            return
        for engine, model, disk in product(PEERS, self.models, self.disks):
            if engine in self.engines:
                yield Cell(model, engine, PEERS[engine], PEER_CAP, disk, 0)


def _distance(cell: Cell) -> tuple[int, int]:
    steps = MODELS.index(cell.model) + list(DISKS).index(cell.disk) + (cell.cap != PEER_CAP)
    return cell.run, steps
