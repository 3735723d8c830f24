"""What the matrix knows of the machine and the models before a cell runs: measured in the same session."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capped import disk_of, run_capped

from matrix.cells import DISKS, Cell
from matrix.foretell import Foretold, Known, foretell
from matrix.models import file_of

_ENGINES = Path(__file__).parents[1] / "engines"
_FRESH_S = 120.0  # a shared disk is not the same some minutes later
_SAMPLE_S = 2.0


@dataclass(slots=True)
class Session:
    """Rates of disks, measured anew every two minutes, and what is known of each model."""

    _disks: dict[tuple[str, str], tuple[float, Mapping[str, float]]] = field(default_factory=dict)
    _models: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def disk(self, name: str, file: Path, form: str) -> Mapping[str, float]:
        """Return the rates of a disk in `DISKS`, read at `file` alone and beside compute, in bytes/s."""
        known = self._disks.get((name, form))
        if known is None or time.monotonic() - known[0] > _FRESH_S:
            found = measured("disk_rate.py", file, form, str(_SAMPLE_S), disk_bytes_per_s=DISKS[name])
            known = self._disks[name, form] = time.monotonic(), found
        return known[1]

    def foretell(self, cell: Cell, model: Path, tokens: int, memory_bytes: int) -> Foretold:
        """Return what one of Tierline's cells will reach."""
        if model not in self._models:
            self._models[model] = measured("known.py", model, str(tokens), disk_bytes_per_s=None)
        facts, disk = self._models[model], self.disk(cell.disk, file_of(model), cell.format)
        products_s = facts["flop"] / disk[f"{cell.format}_beside_reads_flop_per_s"]
        known = Known(
            matrix_bytes=facts["matrix_bytes"],
            row_bytes=facts["row_bytes"],
            besides_bytes=facts["besides_bytes"],
            compute_s=products_s + facts["calls"] * disk["call_s"],
        )
        return foretell(known, memory_bytes, disk, cell.format)


def measured(script: str, path: Path, *arguments: str, disk_bytes_per_s: float | None) -> Mapping[str, Any]:
    """Return what a script of `engines/` finds in a process of its own, on a disk of that rate."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found"
        command = [sys.executable, str(_ENGINES / script), str(path), *arguments, str(target)]
        done = run_capped(
            command, memory_bytes=None, disk_bytes_per_s=disk_bytes_per_s, disk=disk_of(path), timeout_s=300
        )
        if done.exit_code:
            raise RuntimeError(f"{script} ended with {done.exit_code}")
        found: Mapping[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return found
