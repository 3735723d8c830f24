"""Finished cells, one JSON document a line, kept with the repository."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierline.calibrate.memory import cores
from tierline.machines.calibrated import processor

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """The file of results."""

    path: Path

    def rows(self) -> list[Row]:
        """Return every row; a line that a killed run left half written is skipped."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def best(self) -> dict[str, Row]:
        """Return the row of every cell by its key: of several, the one that others disturbed least."""
        best: dict[str, Row] = {}
        for row in self.rows():
            if row["key"] not in best or disturbance(row) <= disturbance(best[row["key"]]):
                best[row["key"]] = row
        return best

    def done(self, quiet: float) -> set[str]:
        """Return the keys of the cells that ran while others took at most `quiet` of the processors."""
        return {key for key, row in self.best().items() if disturbance(row) <= quiet}

    def append(self, row: Row) -> None:
        """Write one row to the disk before returning."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        broken = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if broken else "") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def disturbance(row: Row) -> float:
    """Return the part of all processors that other work took while the cell ran."""
    return float(row["limits"]["others_cpu_fraction"])


def machine_name() -> str:
    """Return what the figures hold for: processor, cores and kernel."""
    return f"{processor()}, {cores()} cores, Linux {platform.release()}"
