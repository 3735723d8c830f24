"""`tierline run`: the model answers while its weights stream from disk."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tierline.cli.progress import loading_bar
from tierline.errors import InputError
from tierline.report.run import print_run, run_json
from tierline.run.request import Request
from tierline.run.source import Source, open_source
from tierline.units import parse_bytes

if TYPE_CHECKING:
    from tierline.run.report import RunReport

_PROMPT_LIMIT_BYTES = 2**24


def run(
    model: Annotated[
        Path, typer.Argument(help="A GGUF file, or a directory of config.json and safetensors.")
    ],
    text: Annotated[str, typer.Argument(help="What to ask.")],
    resident: Annotated[
        str | None, typer.Option(help="Most weight bytes held at once, staging included, such as 44MiB.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Most bytes for the whole process, such as 1.2GiB.")
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
    resident_bytes = None if resident is None else parse_bytes(resident)
    memory_bytes = None if memory is None else parse_bytes(memory)
    if not text or len(text) > _PROMPT_LIMIT_BYTES:
        raise InputError(f"TEXT has {len(text):,} characters: want 1 to {_PROMPT_LIMIT_BYTES:,}")
    source = open_source(model)
    if lean:
        from tierline.run.lean import import_lean

        import_lean()
    request = Request(text, new=new, raw=raw, temperature=temperature, top_p=top_p, seed=seed)
    answer_to = sys.stderr if as_json else sys.stdout
    report = _answer(source, request, resident_bytes, memory_bytes, answer_to)
    if as_json:
        sys.stdout.write(json.dumps(run_json(report)) + "\n")
    else:
        print_run(report)


def _answer(
    source: Source, request: Request, resident_bytes: int | None, memory_bytes: int | None, out: TextIO
) -> "RunReport":
    """Run the request with progress on stderr and the text on `out` as it comes."""
    with loading_bar("starting torch and transformers") as bar:
        from tierline.run.session import Session

        bar.say("building the model")
        session = Session(source, resident=resident_bytes, memory=memory_bytes)
        with session:
            bar.say("rehearsing a pass")

            def emit(text: str) -> None:
                bar.stop()
                out.write(text)
                out.flush()

            try:
                return session.answer(request, progress=bar.loading, emit=emit)
            finally:
                bar.stop()
                out.write("\n")
