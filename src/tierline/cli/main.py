"""The command line: one verb per file, each imported when it is used, so that --help is instant."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from tierline.errors import TierlineError

if TYPE_CHECKING:
    import typer

_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
# Verb -> what it is for, in a line. The function is the one of that name in tierline.cli.VERB.
VERBS = {
    "plan": "Does it fit, where does every byte live, how fast can it go at best?",
    "simulate": "Execute the plan event by event in virtual time: streaming, caches, who waits for whom.",
    "run": "Run a model for real, its weights streamed from disk under a memory budget.",
    "compare": "Plan, simulate and run the same plan: predicted beside measured, with the error.",
    "pack": "Rewrite a model once for streaming: aligned, checksummed, in a kernel's own form.",
    "roofline": "The intensity of every operation against every ceiling and link; --plot FILE.",
    "derive": "The derivation of a plan, formula by formula with its numbers, as Markdown.",
    "report": "A plan as one HTML file: verdict, figures, tables, derivation, sources.",
    "audit": "Check published figures: derive each one, say what holds, what is wrong and why.",
    "sweep": "Cost every combination of any options: lists and ranges, to CSV or Parquet.",
    "find": "The inverse: what rate, memory, format, context or machine meets a goal, to the byte.",
    "advise": "What would help, by simulated gain, with its cost in accuracy and memory.",
    "calibrate": "Measure this computer: disk, memory and kernels, alone and together; for --on this.",
    "serve": "A model behind the OpenAI chat-completions API; what waits shares each pass.",
    "web": "Serve a page to explore with: verdict, memory map, roofline and timeline follow the controls.",
    "models": "List the models that Tierline knows by name, or show one.",
    "machines": "List the machines that Tierline knows by name, or show one.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 when the question was answered, 2 when the input has to be mended.

    Without `arguments` the process is the command line's own, and ends without its libraries' taking
    themselves apart: torch's take seconds for that, and everything of ours has been closed by then.
    """
    try:
        _obey(sys.argv[1:] if arguments is None else list(arguments))
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write("\ntierline: interrupted\n")
        if arguments is not None or "torch" not in sys.modules:
            raise
        _leave(ended.code)


def _leave(code: str | int | None) -> None:
    """End the process with `code` as the interpreter would, but at once."""
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n" if code else "")
        code = 1 if code else 0
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _obey(arguments: Sequence[str]) -> None:
    """Run the verb that `arguments` name; raise SystemExit."""
    verb = next((a for a in arguments if not a.startswith("-")), "")
    try:
        _app(verb)(arguments, prog_name="tierline")
    except TierlineError as error:
        sys.stderr.write(f"tierline: {error}\n")
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"tierline: {where}{error.strerror or error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _app(verb: str) -> "typer.Typer":
    """Return the application with `verb` imported and the others by name only."""
    import typer

    app = typer.Typer(
        help="Plan, simulate and run transformers that are bigger than the fast memory they have.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Try: tierline plan smolvlm2-256m --on nexys-video --weights mxfp8:block=8")(_root)
    for name, purpose in VERBS.items():
        function: Callable[..., None] = _listed
        if name == verb:
            function = getattr(import_module(f"tierline.cli.{name}"), name)
        app.command(name, short_help=purpose)(function)
    return app


def _root() -> None:
    """Take no options of its own; with it, a single verb is still a verb."""


def _listed() -> None:
    """Stand for a verb that was not asked for: only its name and purpose are shown."""
