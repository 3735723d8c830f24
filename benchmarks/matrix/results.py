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

    def keys(self) -> set[str]:
        """Return the keys of the cells that are done."""
        return {row["key"] for row in self.rows() if "key" in row}

    def append(self, row: Row) -> None:
        """Write one row to the disk before returning."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        broken = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if broken else "") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def machine_name() -> str:
    """Return what the figures hold for: processor, cores and kernel."""
    return f"{processor()}, {cores()} cores, Linux {platform.release()}"
