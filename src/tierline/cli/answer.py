"""What `tierline run` does once it knows what to do: one answer, one turn of a saved session, or a chat."""

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tierline.cli.progress import LoadingBar
from tierline.cli.session import PROMPT_LIMIT, Setting, traced_session, writer
from tierline.errors import InputError
from tierline.report.run import print_run, run_json, turn_line
from tierline.run.request import Request

ATTACH = "/image"  # a line of a chat that names an image for the turn after it

if TYPE_CHECKING:
    from tierline.cli.live import Meters
    from tierline.run.conversation import Conversation
    from tierline.run.generate import Emit
    from tierline.run.report import RunReport
    from tierline.run.session import Session


def answer(setting: Setting, request: Request, *, as_json: bool, live: bool = False) -> None:
    """Answer one request and print what it took; `live` shows how it goes."""
    with traced_session(setting) as (session, bar), _printing(as_json=as_json) as out:
        if live:
            from tierline.cli.live import answer_live

            report = answer_live(session, request, bar, out)
        else:
            report = session.answer(request, progress=bar.loading, emit=writer(out, bar))
    _show(report, as_json=as_json)


def take_turn(
    setting: Setting, request: Request, context: int, path: Path, *, as_json: bool, live: bool = False
) -> None:
    """Answer `request` as the next turn of the session saved in `path`, and save it again."""
    with (
        traced_session(setting) as (session, bar),
        _printing(as_json=as_json) as out,
        metered(session, request.new, out, live=live) as meters,
    ):
        conversation = _resumed(session, request, context, path, bar)
        bar.stop()
        report = _said(conversation, request, writer(out, bar), meters)
        conversation.save(path)
    _show(report, as_json=as_json)


def converse(
    setting: Setting, request: Request, context: int, path: Path | None, *, live: bool = False
) -> None:
    """Answer line by line from stdin; a turn that does not fit is refused and the conversation goes on.

    Images of `request` are part of the first turn; those of lines `/image FILE`, of the turn after them.
    """
    with (
        traced_session(setting) as (session, bar),
        metered(session, request.new, sys.stdout, live=live) as meters,
    ):
        conversation = _resumed(session, request, context, path, bar)
        bar.stop()
        emit = writer(sys.stdout, bar)
        images = request.images
        while (line := _ask()) is not None:
            if line.startswith(f"{ATTACH} "):
                images = (*images, Path(line.removeprefix(ATTACH).strip()))
                continue
            if not line:
                continue
            asked, images = replace(request, text=line, images=images), ()
            try:
                report = _said(conversation, asked, emit, meters)
            except InputError as error:
                sys.stderr.write(f"tierline: {error}\n")
                continue
            sys.stdout.write("\n")
            sys.stderr.write(f"[{turn_line(report)}]\n")
            if path is not None:
                conversation.save(path)


def metered(
    session: "Session", most_tokens: int, out: TextIO, *, live: bool
) -> AbstractContextManager["Meters | None"]:
    """Lend the meters of a run whose answers have so many tokens and go to `out`; None unless `live`."""
    if not live:
        return nullcontext()
    from tierline.cli.live import Meters

    return Meters(session, most_tokens, out)


def _said(
    conversation: "Conversation", request: Request, emit: "Emit", meters: "Meters | None"
) -> "RunReport":
    """Return what the next turn took, `meters` shown while it is answered."""
    if meters is None:
        return conversation.say(request, emit)
    return meters.answer(conversation.prediction, lambda to: conversation.say(request, to), emit)


def _resumed(
    session: "Session", request: Request, context: int, path: Path | None, bar: LoadingBar
) -> "Conversation":
    from tierline.run.conversation import Conversation

    conversation = Conversation(session, context, bar.loading, request, saved=path is not None)
    if path is not None and path.exists():
        tokens = conversation.restore(path)
        bar.stop()
        sys.stderr.write(f"[{path}: {tokens:,} tokens need not be computed again]\n")
    return conversation


@contextmanager
def _printing(*, as_json: bool) -> Iterator[TextIO]:
    """Lend where the answer goes; its line is ended whatever ended the answer."""
    out = sys.stderr if as_json else sys.stdout
    try:
        yield out
    finally:
        out.write("\n")
        out.flush()


def _show(report: "RunReport", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(run_json(report)) + "\n")
    else:
        print_run(report)


def _ask() -> str | None:
    """Return the next line, without the blanks around it; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline(PROMPT_LIMIT)
    return line.strip() if line else None
