"""Runs that were started from the command line with --live, as the page follows them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Path, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tierline.errors import InputError
from tierline.live import read_run, runs, runtime_folder

_EVERY_S = 0.25
_ENDED = ("done", "failed")


def add_runs(app: FastAPI) -> None:
    """Add the list of runs, and one run as server-sent events."""

    @app.get("/api/runs")
    def listed() -> Response:
        """The runs of this user, newest first."""
        try:
            return JSONResponse({"runs": runs(runtime_folder())})
        except (InputError, OSError) as error:
            return JSONResponse({"runs": [], "message": str(error)})

    @app.get("/api/runs/{run}", responses={404: {"description": "No such run"}})
    async def follow(request: Request, run: Annotated[str, Path(pattern="^[0-9]{1,10}$")]) -> Response:
        """How a run stands, again and again until it ends, as server-sent events."""
        if await asyncio.to_thread(_now, run) is None:
            return JSONResponse({"message": f"there is no run {run}"}, status_code=404)
        return StreamingResponse(_events(request, run), media_type="text/event-stream")


def _now(run: str) -> dict[str, object] | None:
    try:
        return read_run(runtime_folder(), run)
    except (InputError, OSError):
        return None


async def _events(request: Request, run: str) -> AsyncIterator[str]:
    """Yield an event whenever the run says something new, until it has ended or nobody listens."""
    last: object = None
    while not await request.is_disconnected():
        now = await asyncio.to_thread(_now, run)
        if now is None:
            return
        if (says := (now["updated_s"], now["stage"])) != last:  # who was killed says nothing any more
            last = says
            yield f"data: {json.dumps(now)}\n\n"
        if now["stage"] in _ENDED:
            return
        await asyncio.sleep(_EVERY_S)
