"""What answers the page's questions, in a process of its own: frames in on stdin, frames out on stdout.

A question is a line of JSON and `content_bytes` bytes after it; an answer is a line `STATUS TYPE BYTES` and
that many bytes.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from tierline.errors import TierlineError
from tierline.web.answers import ANSWERS, Answered
from tierline.web.uploads import Uploads


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which closes stdin
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the frames
    uploads = Uploads(Path(sys.argv[1]))
    source = sys.stdin.buffer
    while line := source.readline():
        question = json.loads(line)
        status, answered = _answer(question, source.read(question.pop("content_bytes")), uploads)
        _write(out, status, answered)


def _answer(question: dict[str, Any], content: bytes, uploads: Uploads) -> tuple[int, Answered]:
    try:
        return 200, ANSWERS[question.pop("ask")](question, content, uploads)
    except TierlineError as error:
        return 422, Answered.json({"message": str(error)})
    except Exception:  # noqa: BLE001 - a mistake of ours: the page hears of it, the terminal says where
        traceback.print_exc()
        return 500, Answered.json({"message": "something went wrong here: see the server's terminal"})


def _write(out: BinaryIO, status: int, answered: Answered) -> None:
    out.write(f"{status} {answered.content_type} {len(answered.body)}\n".encode("ascii"))
    out.write(answered.body)
    out.flush()


if __name__ == "__main__":
    main()
