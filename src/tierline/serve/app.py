"""The API: chat completions, whole or streamed, the list of one model, and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from tierline.serve.job import End, Event, Failure, Piece
from tierline.serve.replies import DONE, Refusal, Reply, error_body, event
from tierline.serve.schema import MOST_URL, ChatRequest
from tierline.serve.service import Service, Ticket
from tierline.web.guard import App, Guard

_LEAST_BODY_BYTES, _TOKEN_BYTES = 2**16, 64  # a token is seldom more than this, escaped in JSON
_CLIENT_GONE = 499  # as nginx has it in its log: nobody gets it
_LOOK_S = 0.25  # how often it is looked whether who waits for a whole answer is still there


def create_app(service: Service, hosts: Collection[str]) -> App:
    """Return the server of `service` as an ASGI application that answers to `hosts` only."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    app = FastAPI(title="Tierline", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _missing)
    _add_models(app, service)
    app.add_api_route("/v1/chat/completions", _chat, methods=["POST"], response_model=None)
    limits = service.limits
    most_bytes = _LEAST_BODY_BYTES + _TOKEN_BYTES * limits.context + MOST_URL * limits.images
    return Guard(app, hosts, most_bytes=most_bytes, problem=lambda why: error_body(403, why))


def _add_models(app: FastAPI, service: Service) -> None:
    model = {"id": service.name, "object": "model", "created": int(time.time()), "owned_by": "tierline"}

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        """The one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    def one(name: str) -> dict[str, object]:
        """The model by its name."""
        _check_model(service, name)
        return model

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether it answers."""
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics() -> Response:
        """Counters and gauges."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        why = f"the model {name[:120]!r} is not served here; {service.name!r} is"
        raise Refusal(404, why, code="model_not_found", param="model")


async def _chat(request: Request, asked: ChatRequest) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    started_s = time.perf_counter()
    try:
        _check_model(service, asked.model)
        prompted = await run_in_threadpool(service.prompt, asked)
        ticket = service.submit(asked, prompted)
    except Refusal:
        service.metrics.requests.labels("refused").inc()
        raise
    answer = _Answer(service, ticket, Reply(service.name, len(prompted.ids)), started_s)
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _Streamed(answer, usage=usage)
    return await answer.whole(request)


class _Answer:
    """One request on its way; whatever ends it, its slot is free after that."""

    def __init__(self, service: Service, ticket: Ticket, reply: Reply, started_s: float) -> None:
        self._metrics, self._ticket, self._reply = service.metrics, ticket, reply
        self._started_s: float | None = started_s
        self._outcome = "left"

    async def stream(self, *, usage: bool) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events; `leave` is to be called when nobody reads them any more."""
        reply = self._reply
        yield reply.chunk({"role": "assistant", "content": ""})
        while not isinstance(found := await self._next(), End | Failure):
            yield reply.chunk({"content": found.text})
        if isinstance(found, Failure):
            yield event(error_body(500, found.message))
            return
        yield reply.chunk({}, found.reason)
        if usage:
            yield reply.usage_chunk(found.tokens)
        yield DONE

    async def whole(self, request: Request) -> Response:
        """Return the answer once it has come; give it up when nobody waits for it any more."""
        coming, gone = asyncio.ensure_future(self._all()), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else Response(status_code=_CLIENT_GONE)
        finally:
            coming.cancel()
            gone.cancel()
            self.leave()

    async def _all(self) -> Response:
        texts: list[str] = []
        while not isinstance(found := await self._next(), End | Failure):
            texts.append(found.text)
        if isinstance(found, Failure):
            return JSONResponse(error_body(500, found.message), 500)
        return JSONResponse(self._reply.whole("".join(texts), found.reason, found.tokens))

    async def _next(self) -> Event:
        found = await self._ticket.events.get()
        if isinstance(found, Piece) and self._started_s is not None:
            self._metrics.first_token.observe(time.perf_counter() - self._started_s)
            self._started_s = None
        if isinstance(found, End | Failure):
            self._outcome = "answered" if isinstance(found, End) else "failed"
        return found

    def leave(self) -> None:
        """Free the slot: nobody waits for the answer any more."""
        self._ticket.job.cancelled = True
        self._metrics.requests.labels(self._outcome).inc()


async def _gone(request: Request) -> None:
    """Return when whoever asked has gone."""
    while not await request.is_disconnected():
        await asyncio.sleep(_LOOK_S)


class _Streamed(StreamingResponse):
    """An answer as server-sent events."""

    def __init__(self, answer: _Answer, *, usage: bool) -> None:
        super().__init__(answer.stream(usage=usage), media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the answer is whole or the client has gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # here and not in the generator, which may be collected much later
            self._answer.leave()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for it alone
    headers = {"retry-after": "5"} if error.status == 429 else None
    return JSONResponse(error.body, error.status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a request that does not match its schema: one line that says where and what."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    deepest = max(error.errors(), key=lambda found: len(found["loc"]))  # of a union, what came closest
    where = ".".join(str(part) for part in deepest["loc"] if part != "body")[:120]
    service: Service = request.app.state.service
    service.metrics.requests.labels("refused").inc()
    return JSONResponse(error_body(400, f"{where or 'request'}: {deepest['msg']}", param=where or None), 400)


async def _missing(_: Request, error: Exception) -> Response:
    """Answer what is not there, in the form of all other errors."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)
