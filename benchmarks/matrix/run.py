"""One cell, run under its limits: what came of it, as a row."""

import datetime as dt
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capped import CappedRun, disk_of, run_capped

from matrix.cells import DISKS, TIERLINE, Cell
from matrix.models import Models, file_of
from matrix.peers import Environments
from matrix.results import machine_name
from matrix.session import Session

SLACK_BYTES = 8 * 2**20  # page tables and what else the kernel charges to the cgroup
_TIMEOUT_S = 900.0
_MESSAGE_CHARACTERS = 300
# Tokens of a run: enough to see the steady rate, few enough that slow engines end.
_TOKENS = {"llama-3.2-1b": 12, "llama-3.2-3b": 8}
_PEER_TOKENS = {"llama-3.2-1b": 6, "llama-3.2-3b": 4}


@dataclass(frozen=True, slots=True)
class Bench:
    """Models, environments and what was measured in this session."""

    models: Models
    environments: Environments
    session: Session

    def run(self, cell: Cell) -> dict[str, Any]:
        """Run `cell` and return its row, what was foretold of it included."""
        model = self.models.need(cell.model, cell.format)
        memory_bytes = int(file_of(model).stat().st_size / cell.cap)
        ours = cell.engine == TIERLINE
        budget_bytes = memory_bytes - SLACK_BYTES if ours else memory_bytes
        tokens = (_TOKENS if ours else _PEER_TOKENS)[cell.model]
        rates = self.session.disk(cell.disk, file_of(model), cell.format) if ours else None
        foretold = self.session.foretell(cell, model, tokens, budget_bytes) if ours else None
        with tempfile.TemporaryDirectory() as folder:
            target, err = Path(folder) / "result", Path(folder) / "err"
            command = self.environments.command(cell, model, tokens, target, budget_bytes)
            row = {
                "key": cell.key(machine_name()),
                **asdict(cell),
                "machine": machine_name(),
                "date": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
                "commit": commit(),
                "load": os.getloadavg()[0],
                "read_ahead_kb": read_ahead_kb(model),
                "memory_bytes": memory_bytes,
                "model_bytes": file_of(model).stat().st_size,
                "disk": cell.disk,
                "disk_rates": rates,
                "foretold": asdict(foretold) if foretold else None,
            }
            done = run_capped(
                ["sh", "-c", 'exec "$@" >/dev/null 2>"$0"', str(err), *command],
                memory_bytes=memory_bytes,
                disk_bytes_per_s=DISKS[cell.disk],
                disk=disk_of(model),
                timeout_s=_TIMEOUT_S,
            )
            row["limits"] = asdict(done)
            row["plan"] = _document(Path(f"{target}.plan"))
            row["result"] = _document(target)
            row["failure"] = None if row["result"] else _failure(done, err)
        return row


def read_ahead_kb(path: Path) -> int:
    """Return how far the kernel reads ahead of a mapping on the disk that holds `path`."""
    queue = Path(f"/sys/dev/block/{disk_of(path)}/queue/read_ahead_kb")
    return int(queue.read_text(encoding="ascii"))


def commit() -> str | None:
    """Return which commit of this repository runs, None outside of one."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None


def _document(path: Path) -> Mapping[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _failure(done: CappedRun, err: Path) -> str:
    if done.oom_kills:
        return "killed: out of memory"
    if done.timed_out:
        return f"no end within {_TIMEOUT_S:.0f} s"
    lines = err.read_text(encoding="utf-8", errors="replace").strip().splitlines() if err.exists() else []
    return (lines[-1] if lines else f"ended with {done.exit_code}")[:_MESSAGE_CHARACTERS]
