"""`tierline run`: the model answers while its weights stream from disk."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tierline.cli.progress import LoadingBar, loading_bar
from tierline.errors import InputError
from tierline.report.run import print_run, run_json, turn_line
from tierline.run.request import Request
from tierline.run.source import Source, open_source
from tierline.trace import chrome_trace
from tierline.units import parse_bytes

if TYPE_CHECKING:
    from tierline.run.session import Session

_PROMPT_LIMIT = 2**24
_CONTEXT_LIMIT = 2**24


def run(
    model: Annotated[
        Path, typer.Argument(help="A GGUF file, or a directory with config.json and safetensors.")
    ],
    text: Annotated[str | None, typer.Argument(help="What to ask (not with --chat).")] = None,
    resident: Annotated[
        str | None, typer.Option(help="Most weight bytes held at once, staging included, such as 44MiB.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Most bytes for the whole process, such as 1.2GiB; or auto.")
    ] = None,
    new: Annotated[int, typer.Option(help="Most tokens to generate.", min=1, max=1_000_000)] = 128,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send TEXT as it is, without the chat template.")
    ] = False,
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
    lean: Annotated[
        bool, typer.Option("--lean", help="Leave torch.compile out: less memory for the process itself.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; the answer goes to stderr.")
    ] = False,
) -> None:
    """Run a model for real, its weights streamed from disk under a memory budget.

    Example: tierline run model.gguf "What is the capital of France?" --resident 44MiB
    """
    # Headers and options are checked before anything heavy is imported: a bad file answers at once.
    setting = _Setting(
        source=open_source(model),
        resident=None if resident is None else parse_bytes(resident),
        memory=_memory(memory),
        trace=trace,
        lean=lean,
    )
    if chat and (text is not None or raw or as_json):
        raise InputError("--chat reads what to ask line by line: leave out TEXT, --raw and --json")
    request = Request("", new=new, raw=raw, temperature=temperature, top_p=top_p, seed=seed)
    if chat:
        _converse(setting, request, context)
    else:
        _answer(setting, replace(request, text=_checked(text)), as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What is opened, within which budget, and what is kept of it."""

    source: Source
    resident: int | None
    memory: int | None
    trace: Path | None
    lean: bool


def _checked(text: str | None) -> str:
    if not text or len(text) > _PROMPT_LIMIT:
        raise InputError(f"TEXT has {len(text or ''):,} characters: want 1 to {_PROMPT_LIMIT:,}")
    return text


def _memory(text: str | None) -> int | None:
    if text != "auto":
        return None if text is None else parse_bytes(text)
    from tierline.machines.memory import read_memory

    return read_memory().free_bytes


@contextmanager
def _session(setting: _Setting) -> Iterator[tuple["Session", LoadingBar]]:
    """Open the model with progress on stderr; write the trace, if any, when all is done."""
    with loading_bar("starting torch and transformers") as bar:
        if setting.lean:
            from tierline.run.lean import import_lean

            import_lean()
        from tierline.run.session import Session

        bar.say("building the model")
        with Session(
            setting.source,
            resident=setting.resident,
            memory=setting.memory,
            keep_events=setting.trace is not None,
        ) as session:
            bar.say("rehearsing a pass")
            try:
                yield session, bar
            finally:
                bar.stop()
                if setting.trace is not None:
                    document = chrome_trace(session.events, f"tierline run {setting.source.path.name}")
                    setting.trace.write_text(json.dumps(document), encoding="utf-8")


def _writer(out: TextIO, bar: LoadingBar) -> Callable[[str], None]:
    def emit(text: str) -> None:
        bar.stop()
        out.write(text)
        out.flush()

    return emit


def _answer(setting: _Setting, request: Request, *, as_json: bool) -> None:
    out = sys.stderr if as_json else sys.stdout
    with _session(setting) as (session, bar):
        try:
            report = session.answer(request, progress=bar.loading, emit=_writer(out, bar))
        finally:
            bar.stop()
            out.write("\n")
            out.flush()
    if as_json:
        sys.stdout.write(json.dumps(run_json(report)) + "\n")
    else:
        print_run(report)


def _converse(setting: _Setting, request: Request, context: int) -> None:
    """Answer line by line from stdin; a turn that does not fit is refused and the conversation goes on."""
    with _session(setting) as (session, bar):
        conversation = session.converse(context, bar.loading)
        bar.stop()
        emit = _writer(sys.stdout, bar)
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
    line = sys.stdin.readline(_PROMPT_LIMIT)
    return line.strip() if line else None
