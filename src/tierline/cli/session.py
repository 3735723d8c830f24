"""Opening a model to run: what the verbs that run one share."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tierline.cache import cache_folder
from tierline.cli.progress import LoadingBar, loading_bar
from tierline.errors import InputError
from tierline.place.cache import ONLINE_POLICIES, OnlinePolicyName
from tierline.run.early import refuse_at_once
from tierline.run.gguf_tokenizer import convert_apart
from tierline.run.kv.choice import KvChoice, kv_format
from tierline.run.pace import Pace
from tierline.run.reserve import remember_reserve
from tierline.run.source import Source
from tierline.run.stripe import check_copies
from tierline.trace import TraceEvent, chrome_traces
from tierline.units import parse_bytes

if TYPE_CHECKING:
    from tierline.run.session import Session

PROMPT_LIMIT = 2**24

FilesArgument = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A GGUF file, or a directory with config.json and safetensors."),
]
ResidentOption = Annotated[
    str | None, typer.Option(help="Most weight bytes held at once, staging included, such as 44MiB.")
]
MemoryOption = Annotated[
    str | None, typer.Option(help="Most bytes for the whole process, such as 1.2GiB; or auto.")
]
NewOption = Annotated[int, typer.Option(help="Most tokens to generate.", min=1, max=1_000_000)]
RawOption = Annotated[bool, typer.Option("--raw", help="Send TEXT as it is, without the chat template.")]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="An image that TEXT, or the first turn of a chat, is about; repeatable."
    ),
]
ExpertPolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="Which experts leave memory first: lfu (the default), lru, fifo or random.",
    ),
]
PaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MACHINE[:LINK]",
        help="Slow reads to this machine's link; by default its slowest into the fast tier.",
    ),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="So much memory stands for a host's, before a device with --resident: --pace's link is then the "
        "one between them.",
    ),
]
KvOption = Annotated[
    str | None, typer.Option(help="Keep keys and values as this: int8, with a scale per head and token.")
]
KvOffloadOption = Annotated[
    bool, typer.Option("--kv-offload", help="Keep keys and values on disk, read back layer by layer.")
]
StripeOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A copy of the model's file, on another disk, that is read at the same time; repeatable.",
    ),
]
LeanOption = Annotated[
    bool, typer.Option("--lean", help="Never load torch.compile: refuse the few masks that need it.")
]
AnswerJsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; the answer goes to stderr.")
]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is opened, within which budget, and what is kept of it; `new` is the tokens to make room for."""

    source: Source
    resident: int | None
    memory: int | None
    trace: Path | None
    lean: bool
    pace: Pace | None = None
    verify: bool = False
    new: int = 1
    kv: KvChoice = field(default_factory=KvChoice)
    plot: Path | None = None
    stripes: tuple[Path, ...] = ()
    host: int | None = None
    expert_policy: OnlinePolicyName | None = None


def checked_text(text: str | None) -> str:
    """Return `text`; raise InputError where there is none, or far too much."""
    if not text or len(text) > PROMPT_LIMIT:
        raise InputError(f"TEXT has {len(text or ''):,} characters: want 1 to {PROMPT_LIMIT:,}")
    return text


def host_bytes(host: str | None, pace: str | None, stripes: Sequence[Path] | None) -> int | None:
    """Return the bytes that --host names; raise InputError without --pace, whose link it needs."""
    if host is None:
        return None
    if pace is None:
        raise InputError("--host needs the link to the device: give it with --pace MACHINE[:LINK]")
    if stripes:
        raise InputError("--host and --stripe exclude each other: a host tier reads one disk")
    return parse_bytes(host)


def kv_choice(kv: str | None, offload: bool) -> KvChoice:
    """Return how the cache is kept; on disk that is in this user's cache folder."""
    return KvChoice(kv_format(kv), cache_folder() / "kv" if offload else None)


def checked_policy(text: str | None) -> OnlinePolicyName | None:
    """Return the policy that --expert-policy names, None without it; raise InputError for an unknown one."""
    found = next((name for name in ONLINE_POLICIES if name == text), None)
    if text is not None and found is None:
        raise InputError(f"--expert-policy {text[:40]!r}: want one of {', '.join(ONLINE_POLICIES)}")
    return found


def memory_bytes(text: str | None) -> int | None:
    """Return the bytes that `--memory` names; `auto` is what is free on this computer."""
    if text != "auto":
        return None if text is None else parse_bytes(text)
    from tierline.machines.memory import read_memory

    return read_memory().free_bytes


@contextmanager
def opened_session(setting: Setting) -> Iterator[tuple["Session", LoadingBar]]:
    """Open the model with progress on stderr; events are kept if a trace or a figure is asked for.

    Raises BudgetError, before anything heavy is imported, for a budget that headers show cannot work.
    """
    source = setting.source
    check_copies(source, setting.stripes)
    refuse_at_once(
        source,
        resident=setting.resident,
        memory=setting.memory,
        new=setting.new,
        kv=setting.kv,
        links=1 + len(setting.stripes),
    )
    with loading_bar("starting torch and transformers") as bar:
        if setting.memory is not None and source.checkpoint.kind == "gguf":
            convert_apart(source.checkpoint)
        from tierline.run.lean import without_compile

        with without_compile(lean=setting.lean), _session(setting, bar) as session:
            bar.say("rehearsing a pass")
            try:
                yield session, bar
            finally:
                bar.stop()
                if setting.memory is None:  # within a limit, the kernel may have taken pages back
                    engine = session.engine
                    remember_reserve(source, engine.reserved_bytes, engine.rehearser.held)


def _session(setting: Setting, bar: LoadingBar) -> "Session":
    from tierline.run.session import Session

    bar.say("building the model")
    return Session(
        setting.source,
        resident=setting.resident,
        memory=setting.memory,
        keep_events=setting.trace is not None or setting.plot is not None,
        pace=setting.pace,
        verify=setting.verify,
        kv=setting.kv,
        stripes=setting.stripes,
        host_bytes=setting.host,
        expert_policy=setting.expert_policy,
    )


@contextmanager
def traced_session(setting: Setting) -> Iterator[tuple["Session", LoadingBar]]:
    """Open the model; write the trace, if any, when all is done, whatever ended it."""
    with opened_session(setting) as (session, bar):
        try:
            yield session, bar
        finally:
            bar.stop()
            write_trace(setting.trace, {f"tierline run {setting.source.path.name}": session.events})


def write_trace(path: Path | None, processes: Mapping[str, Iterable[TraceEvent]]) -> None:
    """Write the events of each process as one Chrome/Perfetto trace, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(chrome_traces(processes)), encoding="utf-8")


def writer(out: TextIO, bar: LoadingBar) -> Callable[[str], None]:
    """Return what writes the answer to `out` as it comes; the bar goes away with the first of it."""

    def emit(text: str) -> None:
        bar.stop()
        out.write(text)
        out.flush()

    return emit
