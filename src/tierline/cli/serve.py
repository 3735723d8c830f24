"""`tierline serve`: a model that streams from disk, behind the OpenAI chat-completions API."""

import json
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from tierline.cli.session import (
    FilesArgument,
    KvOffloadOption,
    KvOption,
    LeanOption,
    MemoryOption,
    PaceOption,
    ResidentOption,
    Setting,
    StripeOption,
    kv_choice,
    memory_bytes,
    opened_session,
)
from tierline.errors import InputError
from tierline.run.images.files import MOST_IMAGES
from tierline.run.pace import find_pace
from tierline.run.source import open_source
from tierline.units import parse_bytes

DEFAULT_PORT = 8378
_CONTEXT_LIMIT = 2**24


def serve(
    model: FilesArgument,
    resident: ResidentOption = None,
    memory: MemoryOption = None,
    context: Annotated[
        int, typer.Option(help="Most tokens of messages and answer together.", min=8, max=_CONTEXT_LIMIT)
    ] = 2048,
    batch: Annotated[
        int, typer.Option(help="Requests that share a pass; each takes a cache of --context.", min=1, max=256)
    ] = 4,
    new: Annotated[
        int, typer.Option(help="Most tokens of an answer whose request does not say.", min=1, max=1_000_000)
    ] = 512,
    images: Annotated[
        int | None,
        typer.Option(
            help="Images that a pass has room for; 1 by default, if the model looks at any.",
            min=0,
            max=MOST_IMAGES,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than this computer's own are let in by it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any.", min=0, max=65535)] = DEFAULT_PORT,
    kv: KvOption = None,
    kv_offload: KvOffloadOption = False,
    pace: PaceOption = None,
    stripe: StripeOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold weights against a packed file's checksums before use.")
    ] = False,
    lean: LeanOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say where it listens as one JSON document.")
    ] = False,
) -> None:
    """Serve a model to clients of the OpenAI chat-completions API; what waits shares each pass.

    There are also /v1/models, /health and, for Prometheus, /metrics. Ctrl-C or SIGTERM ends it; what is being
    answered then has ten seconds.

    Example: tierline serve model.gguf --memory 1.2GiB --port 8378
    """
    setting = Setting(
        source=open_source(model),
        resident=None if resident is None else parse_bytes(resident),
        memory=memory_bytes(memory),
        trace=None,
        lean=lean,
        pace=None if pace is None else find_pace(pace),
        stripes=tuple(stripe or ()),
        verify=verify,
        new=batch * context,
        kv=kv_choice(kv, kv_offload),
    )
    try:
        import fastapi  # noqa: F401 - asked for before the model is loaded
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"tierline serve needs {error.name}: pip install 'tierline[serve]'") from None
    with opened_session(setting) as (session, bar):
        from tierline.serve.server import load
        from tierline.serve.server import serve as serve_loaded

        limits = load(session, batch=batch, context=context, new=new, progress=bar.loading, images=images)
        bar.stop()
        signal.signal(signal.SIGTERM, _terminated)
        serve_loaded(
            session, limits, host, port, announce=lambda at, name: _announce(at, name, as_json=as_json)
        )


def _announce(address: str, name: str, *, as_json: bool) -> None:
    base = f"{address}v1"
    if as_json:
        typer.echo(json.dumps({"model": name, "base_url": base}))
    else:
        typer.echo(f"{name} at {base}  (Ctrl-C ends it)")
    sys.stdout.flush()


def _terminated(_: int, __: FrameType | None) -> None:
    """End as asked: the server has closed by then, and the rest is closed on the way out."""
    sys.exit(0)
