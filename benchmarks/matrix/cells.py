"""The cells of the matrix, in the order of what they are worth."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

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
        """Return the cells, the most valuable first: once everything, then the repeats.

        Peers run once, at one cap, where that cap is among those wanted.
        """
        return [*self._tierline(range(1)), *self._peers(), *self._tierline(range(1, self.runs))]

    def _tierline(self, runs: Iterable[int]) -> Iterable[Cell]:
        if TIERLINE not in self.engines:
            return
        for run in runs:
            for model in self.models:
                for disk in self.disks:
                    for cap in self.caps:
                        for form in self.formats:
                            yield Cell(model, TIERLINE, form, cap, disk, run)

    def _peers(self) -> Iterable[Cell]:
        if PEER_CAP not in self.caps:
            return
        for disk in self.disks:
            for model in self.models:
                for engine in (engine for engine in PEERS if engine in self.engines):
                    yield Cell(model, engine, PEERS[engine], PEER_CAP, disk, 0)
