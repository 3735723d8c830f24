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
_LONGEST_LINE = 200
_SLOW = ("timeline", "report", "upload")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: an HTTP status, a content type and a body."""

    status: int
    content_type: str
    body: bytes


class _Worker:
    """One process, started for the first question if not before, and again when it had to be ended."""

    def __init__(self, folder: Path, *, warm: bool) -> None:
        self._folder = folder
        self._process = self._started() if warm else None

    def ask(self, question: dict[str, Any], content: bytes, timeout_s: float) -> Answer:
        """Return the answer; raise TimeoutError where it is late, OSError or ValueError where none comes.

        The process is ended then, and the next question finds a new one.
        """
        process = self._process = self._process or self._started()
        deadline_s = time.monotonic() + timeout_s
        try:
            _send(process, question, content)
            status, content_type, size = _line(process, deadline_s).decode("ascii").split()
            return Answer(int(status), content_type, _read(process, int(size), deadline_s))
        except (OSError, ValueError):
            self.end()
            raise

    def end(self) -> None:
        """End the process and wait for that; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
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


def _send(process: subprocess.Popen[bytes], question: dict[str, Any], content: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    line = json.dumps({**question, "content_bytes": len(content)}).encode() + b"\n"
    rest = memoryview(line + content)
    while rest:
        rest = rest[os.write(process.stdin.fileno(), rest) :]


def _line(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        found += _some(process, 1, deadline_s)
        if len(found) > _LONGEST_LINE:
            raise ValueError("no line")
    return found


def _read(process: subprocess.Popen[bytes], size: int, deadline_s: float) -> bytes:
    if size > _MOST_ANSWER_BYTES:
        raise ValueError("too large an answer")
    found = bytearray()
    while len(found) < size:
        found += _some(process, size - len(found), deadline_s)
    return bytes(found)


def _some(process: subprocess.Popen[bytes], most: int, deadline_s: float) -> bytes:
    """Return at least one byte of the answer; raise OSError where none comes in time, or ever."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    descriptor = process.stdout.fileno()
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
    if not ready:
        raise TimeoutError
    found = os.read(descriptor, min(most, 2**20))
    if not found:
        raise OSError("the worker ended")
    return found


class Pools:
    """Workers for what is quick, and others for what may take long: the one never waits for the other."""

    def __init__(self, folder: Path) -> None:
        self._quick, self._slow = Pool(folder, warm=True), Pool(folder)

    def ask(self, question: dict[str, Any], timeout_s: float, content: bytes = b"") -> Answer:
        """Return the answer to `question`, as `Pool.ask` does."""
        pool = self._slow if question["ask"] in _SLOW else self._quick
        return pool.ask(question, timeout_s, content)

    def close(self) -> None:
        """End all workers."""
        self._quick.close()
        self._slow.close()


class Pool:
    """A few workers; a question waits for one that is free."""

    def __init__(self, folder: Path, workers: int = WORKERS, *, warm: bool = False) -> None:
        """With `warm` the processes start at once."""
        self._workers = [_Worker(folder, warm=warm) for _ in range(workers)]
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
            return _problem(503, "all workers are busy: try again in a moment")
        try:
            return worker.ask(question, content, timeout_s)
        except TimeoutError:
            return _problem(
                422,
                f"this takes longer than the {timeout_s:g} s that the page allows: ask the command line, or "
                "choose a smaller model or a larger fast memory",
            )
        except (OSError, ValueError):
            return _problem(503, "what worked on this has ended, perhaps for want of memory: ask again")
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()


def _problem(status: int, message: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"message": message}).encode())
