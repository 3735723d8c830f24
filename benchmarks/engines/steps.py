"""When each token came, and what the disk had read by then; standard library only.

The engines' scripts share it. Each runs in the environment of its engine, started by `capped.py`, which names
the counter of its cgroup in the environment.
"""

import json
import os
import sys
import time
from pathlib import Path

COUNTER, DISK = "CAPPED_COUNTER", "CAPPED_DISK"  # a blkio file of bytes by disk, and major:minor of the disk


class Steps:
    """Tokens as they come: `note` each one, then `write` the document."""

    def __init__(self) -> None:
        counter = os.environ.get(COUNTER)
        self._counter = Path(counter) if counter else None
        self._disk = os.environ.get(DISK, "")
        self._began_s = time.perf_counter()
        self._arrived_s: list[float] = []
        self._read_bytes: list[int] = []

    def begin(self) -> None:
        """Say that the prompt goes in now: everything is loaded."""
        self._began_s = time.perf_counter()

    def note(self) -> None:
        """Note a token."""
        self._arrived_s.append(time.perf_counter())
        self._read_bytes.append(self._read_so_far())

    def write(self, target: str, **more: object) -> None:
        """Write times and bytes around the decode loop, and what else the engine has to say, as JSON."""
        steps = len(self._arrived_s) - 1
        if steps < 1:
            sys.exit("fewer than two tokens came")
        took_s = self._arrived_s[-1] - self._arrived_s[0]
        document = {
            "tokens_per_s": steps / took_s,
            "step_s": [b - a for a, b in zip(self._arrived_s, self._arrived_s[1:])],  # noqa: B905 - any Python
            "first_token_s": self._arrived_s[0] - self._began_s,
            "disk_bytes_per_token": (self._read_bytes[-1] - self._read_bytes[0]) / steps,
            **more,
        }
        Path(target).write_text(json.dumps(document), encoding="utf-8")

    def _read_so_far(self) -> int:
        if self._counter is None:
            return 0
        for line in self._counter.read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[:2] == [self._disk, "Read"]:
                return int(fields[2])
        return 0
