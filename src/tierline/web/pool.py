"""Workers in processes of their own: a question that takes too long is ended with its worker.

Plans of a page are small, but nobody can promise that for every model, machine and upload, and Python cannot
stop a thread. A worker speaks frames over its standard streams (see `worker`).
"""

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

WORKERS = 2
_MOST_ANSWER_BYTES = 2**27
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: an HTTP status, a content type and a body."""

    status: int
    content_type: str
    body: bytes


class _Worker:
    """One process; it is started again when it had to be ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._started()

    def ask(self, question: dict[str, Any], content: bytes, timeout_s: float) -> Answer | None:
        """Return the answer, None where it did not come in time or the worker ended: it is a new one then."""
        deadline_s = time.monotonic() + timeout_s
        try:
            self._send(question, content)
            status, content_type, size = self._line(deadline_s).decode("ascii").split()
            return Answer(int(status), content_type, self._read(int(size), deadline_s))
        except (OSError, ValueError, TimeoutError):
            self.end()
            self._process = self._started()
            return None

    def end(self) -> None:
        """End the process and wait for that; a second call does nothing."""
        process = self._process
        process.kill()
        process.wait(_CLOSE_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "tierline.web.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def _send(self, question: dict[str, Any], content: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        line = json.dumps({**question, "content_bytes": len(content)}).encode() + b"\n"
        rest = memoryview(line + content)
        while rest:
            rest = rest[os.write(self._process.stdin.fileno(), rest) :]

    def _line(self, deadline_s: float) -> bytes:
        found = b""
        while not found.endswith(b"\n"):
            found += self._some(1, deadline_s)
            if len(found) > 200:
                raise ValueError("no line")
        return found

    def _read(self, size: int, deadline_s: float) -> bytes:
        if size > _MOST_ANSWER_BYTES:
            raise ValueError("too large an answer")
        found = bytearray()
        while len(found) < size:
            found += self._some(size - len(found), deadline_s)
        return bytes(found)

    def _some(self, most: int, deadline_s: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise TimeoutError
        found = os.read(descriptor, min(most, 2**20))
        if not found:
            raise OSError("the worker ended")
        return found


class Pool:
    """A few workers; a question waits for one that is free."""

    def __init__(self, folder: Path, workers: int = WORKERS) -> None:
        self._workers = [_Worker(folder) for _ in range(workers)]
        self._free: Queue[_Worker] = Queue()
        for worker in self._workers:
            self._free.put(worker)

    def ask(self, question: dict[str, Any], timeout_s: float, content: bytes = b"") -> Answer:
        """Return the answer to `question`; a message where it did not come in time.

        Its status is then 422, because the question is beyond a limit, or 503 where no worker was free.
        """
        try:
            worker = self._free.get(timeout=timeout_s)
        except Empty:
            return _late(503, "all workers are busy: try again in a moment")
        try:
            answer = worker.ask(question, content, timeout_s)
        finally:
            self._free.put(worker)
        return answer or _late(
            422,
            f"this takes longer than the {timeout_s:g} s that the page allows: ask the command line, or "
            "choose a smaller model or a larger fast memory",
        )

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()


def _late(status: int, message: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"message": message}).encode())
