"""`tierline run`: the model answers while its weights stream from disk."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierline.cli.progress import LoadingBar
from tierline.cli.session import (
    PROMPT_LIMIT,
    AnswerJsonOption,
    FilesArgument,
    KvOffloadOption,
    KvOption,
    LeanOption,
    MemoryOption,
    NewOption,
    PaceOption,
    RawOption,
    ResidentOption,
    Setting,
    checked_text,
    kv_choice,
    memory_bytes,
    opened_session,
    write_trace,
    writer,
)
from tierline.errors import InputError
from tierline.report.run import print_run, run_json, turn_line
from tierline.run.pace import find_pace
from tierline.run.request import MOST_DRAFT_TOKENS, Request
from tierline.run.source import open_source
from tierline.units import parse_bytes

if TYPE_CHECKING:
    from tierline.run.session import Session

_CONTEXT_LIMIT = 2**24


def run(
    model: FilesArgument,
    text: Annotated[str | None, typer.Argument(help="What to ask (not with --chat).")] = None,
    resident: ResidentOption = None,
    memory: MemoryOption = None,
    new: NewOption = 128,
    raw: RawOption = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0, max=100)] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from this much of the probability.", min=0, max=1)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Converse: a line in, an answer out, until the input ends.")
    ] = False,
    context: Annotated[
        int, typer.Option(help="Most tokens of a conversation.", min=8, max=_CONTEXT_LIMIT)
    ] = 2048,
    trace: Annotated[
        Path | None, typer.Option(help="Write reads, waits and compute as a Chrome/Perfetto trace.")
    ] = None,
    speculate: Annotated[
        int,
        typer.Option(
            help="Guess this many tokens from the text so far, and check them in the same pass.",
            min=0,
            max=MOST_DRAFT_TOKENS,
        ),
    ] = 0,
    kv: KvOption = None,
    kv_offload: KvOffloadOption = False,
    pace: PaceOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold weights against a packed file's checksums before use.")
    ] = False,
    lean: LeanOption = False,
    as_json: AnswerJsonOption = False,
) -> None:
    """Run a model for real, its weights streamed from disk under a memory budget.

    Example: tierline run model.gguf "What is the capital of France?" --resident 44MiB
    """
    # Headers and options are checked before anything heavy is imported: a bad file answers at once.
    setting = Setting(
        source=open_source(model),
        resident=None if resident is None else parse_bytes(resident),
        memory=memory_bytes(memory),
        trace=trace,
        lean=lean,
        pace=None if pace is None else find_pace(pace),
        verify=verify,
        new=context if chat else new,
        kv=kv_choice(kv, kv_offload),
    )
    if chat and (text is not None or raw or as_json):
        raise InputError("--chat reads what to ask line by line: leave out TEXT, --raw and --json")
    request = Request(
        "", new=new, raw=raw, temperature=temperature, top_p=top_p, seed=seed, speculate=speculate
    )
    if chat:
        _converse(setting, request, context)
    else:
        _answer(setting, replace(request, text=checked_text(text)), as_json=as_json)


@contextmanager
def _traced(setting: Setting) -> Iterator[tuple["Session", LoadingBar]]:
    """Open the model; write the trace, if any, when all is done, whatever ended it."""
    with opened_session(setting) as (session, bar):
        try:
            yield session, bar
        finally:
            write_trace(setting.trace, {f"tierline run {setting.source.path.name}": session.events})


def _answer(setting: Setting, request: Request, *, as_json: bool) -> None:
    out = sys.stderr if as_json else sys.stdout
    with _traced(setting) as (session, bar):
        try:
            report = session.answer(request, progress=bar.loading, emit=writer(out, bar))
        finally:
            bar.stop()
            out.write("\n")
            out.flush()
    if as_json:
        sys.stdout.write(json.dumps(run_json(report)) + "\n")
    else:
        print_run(report)


def _converse(setting: Setting, request: Request, context: int) -> None:
    """Answer line by line from stdin; a turn that does not fit is refused and the conversation goes on."""
    with _traced(setting) as (session, bar):
        conversation = session.converse(context, bar.loading)
        bar.stop()
        emit = writer(sys.stdout, bar)
        while (line := _ask()) is not None:
            if not line:
                continue
            try:
                report = conversation.say(replace(request, text=line), emit)
            except InputError as error:
                sys.stderr.write(f"tierline: {error}\n")
                continue
            sys.stdout.write("\n")
            sys.stderr.write(f"[{turn_line(report)}]\n")


def _ask() -> str | None:
    """Return the next line, without the blanks around it; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline(PROMPT_LIMIT)
    return line.strip() if line else None
