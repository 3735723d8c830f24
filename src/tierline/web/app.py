"""The page's server: static files, and an API whose answers come from workers."""

import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tierline.report.tables import shown
from tierline.web.guard import LOOPBACK, App, Guard
from tierline.web.live import add_runs
from tierline.web.pool import Answer, Pools
from tierline.web.setting import WANTED, Setting
from tierline.web.static import add_static
from tierline.web.uploads import MOST_FILE_BYTES, MOST_NAME, MOST_UPLOAD_BYTES

ANSWER_S = 20.0
REPORT_S = 60.0
DESCRIBE_S = 60.0  # an architecture that only transformers knows is built, without weights
_NAME = r"^[a-z0-9:.+\-]{1,170}$"


class Problem(BaseModel):
    """What was wrong with a request, and how to mend it."""

    message: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "No JSON"},
    403: {"model": Problem, "description": "Another host or site"},
    422: {"model": Problem, "description": "What was asked for cannot be"},
    503: {"model": Problem, "description": "All workers are busy"},
}


def create_app(hosts: Collection[str] = LOOPBACK) -> App:
    """Return the server, as an ASGI application that answers to `hosts` only.

    Workers start with it, and a private folder for what is uploaded; both go when it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="tierline-web-") as folder:
            app.state.pool = pool = Pools(Path(folder))
            try:
                yield
            finally:
                pool.close()

    app = FastAPI(
        title="Tierline",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=_PROBLEMS,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    for status in (400, 404, 405):
        app.add_exception_handler(status, _problem)
    add_static(app)
    _add_questions(app)
    _add_settings(app)
    add_runs(app)
    return Guard(app, hosts)


def schema(app: App) -> dict[str, Any]:
    """Return the OpenAPI schema of what `create_app` returned."""
    inner: FastAPI = app._app  # type: ignore[attr-defined]  # noqa: SLF001 - our own
    return inner.openapi()


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer a request that does not match its schema: one line that says where, what, and what is wanted."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return JSONResponse({"message": f"{where[:120] or 'request'}: {_wrong(first)}"}, status_code=422)


def _wrong(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, in words: pydantic's, but for patterns and fields that are none."""
    if error["type"] == "extra_forbidden":
        return f"is nothing that can be set: want {', '.join(Setting.model_fields)}"
    if error["type"] != "string_pattern_mismatch":
        return str(error["msg"])
    wanted = WANTED.get(error["ctx"]["pattern"], "a name that this server gives")
    return f"{shown(str(error['input']))[:60]!r} is not {wanted}"


async def _problem(_: Request, error: Exception) -> Response:
    """Answer what is not there or cannot be read, in the form of all other problems."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for its statuses alone
    return JSONResponse({"message": error.detail}, error.status_code, headers=error.headers)


def _add_questions(app: FastAPI) -> None:
    """Add what the controls offer."""

    @app.get("/api/choices")
    def choices(request: Request) -> Response:
        """What each control offers."""
        return _answered(_pool(request).ask({"ask": "choices"}, ANSWER_S))

    @app.get("/api/model")
    def model(request: Request, name: Annotated[str, Query(pattern=_NAME)]) -> Response:
        """What the controls need to know of a model."""
        return _answered(_pool(request).ask({"ask": "model", "name": name}, ANSWER_S))

    @app.get("/api/machine")
    def machine(request: Request, name: Annotated[str, Query(pattern=_NAME)]) -> Response:
        """The numbers of a machine that can be set."""
        return _answered(_pool(request).ask({"ask": "machine", "name": name}, ANSWER_S))

    octets = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(
        "/api/upload",
        openapi_extra={"requestBody": {"required": True, **octets}},
        responses={413: {"model": Problem, "description": "Over 16 MiB"}},
    )
    async def upload(
        request: Request,
        name: Annotated[str, Query(min_length=1, max_length=MOST_NAME)],
        file_bytes: Annotated[int, Query(ge=0, le=MOST_FILE_BYTES)],
        config_bytes: Annotated[int, Query(ge=0, le=MOST_UPLOAD_BYTES)] = 0,
    ) -> Response:
        """Describe a model by the header of its file, after `config_bytes` of its config.json."""
        content = await _content(request)
        if content is None:
            return JSONResponse({"message": "over 16 MiB, which no header takes"}, status_code=413)
        question = {"ask": "upload", "name": name, "file_bytes": file_bytes, "config_bytes": config_bytes}
        return _answered(await run_in_threadpool(_pool(request).ask, question, DESCRIBE_S, content))


def _add_settings(app: FastAPI) -> None:
    """Add what follows from a setting of the controls."""

    def ask(request: Request, what: str, setting: Setting, timeout_s: float = ANSWER_S) -> Response:
        return _answered(_pool(request).ask({"ask": what, "setting": setting.model_dump()}, timeout_s))

    @app.post("/api/plan")
    def plan(request: Request, setting: Setting) -> Response:
        """The plan, its verdict and memory map."""
        return ask(request, "plan", setting)

    @app.post("/api/bounds")
    def bounds(request: Request, setting: Setting) -> Response:
        """The roofline, and what would make the model fit or faster."""
        return ask(request, "bounds", setting)

    @app.post("/api/timeline")
    def timeline(request: Request, setting: Setting) -> Response:
        """A token in virtual time."""
        return ask(request, "timeline", setting)

    @app.post("/api/report")
    def report(request: Request, setting: Setting) -> Response:
        """The report of the plan, one HTML file to keep."""
        made = ask(request, "report", setting, REPORT_S)
        made.headers["content-disposition"] = 'attachment; filename="report.html"'
        return made


def _pool(request: Request) -> Pools:
    pool: Pools = request.app.state.pool
    return pool


def _answered(answer: Answer) -> Response:
    return Response(answer.body, answer.status, media_type=answer.content_type)


async def _content(request: Request) -> bytes | None:
    """Return the body of a request, None as soon as it is too much."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_UPLOAD_BYTES:
            return None
    return bytes(content)
