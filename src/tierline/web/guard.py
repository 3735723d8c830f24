"""Who may ask: pages of this server only. Wraps every request, and puts the same headers on every answer.

A page on another site can make a browser send requests here; it cannot change `Host`, `Origin` and
`Sec-Fetch-Site`. A name that an attacker points at this address (DNS rebinding) comes as `Host`.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from ipaddress import ip_address
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    # plotly sets styles of its own
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
MOST_REQUEST_BYTES = 2**25  # above an upload's bound, which has a message of its own
_SAME = ("same-origin", "none")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses requests that are meant for another host or come from another site's page."""

    def __init__(
        self,
        app: App,
        hosts: Collection[str],
        *,
        most_bytes: int = MOST_REQUEST_BYTES,
        problem: Callable[[str], Mapping[str, object]] = lambda why: {"message": why},
    ) -> None:
        """`hosts` are the names that this server goes by; beyond loopback, any bare address is one too.

        A request of more than `most_bytes` is not read to its end; `problem` makes a refusal's JSON.
        """
        self._app, self._most_bytes, self._problem = app, most_bytes, problem
        self._hosts = {host.lower() for host in hosts} | set(LOOPBACK)
        self._bare = not set(hosts) <= set(LOOPBACK)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on if it may be asked, with our headers on its answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            return
        refusal = self._refusal({k.lower(): v for k, v in scope["headers"]})

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                ours = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return {"type": "http.disconnect"} if taken > self._most_bytes else message

        status = 403
        if not refusal and self._is_too_long(scope):
            status, refusal = 413, f"more than {self._most_bytes:,} bytes are not taken"
        if refusal:
            await _refuse(answer, status, json.dumps(self._problem(refusal)).encode())
        else:
            await self._app(scope, bounded, answer)

    def _refusal(self, headers: dict[bytes, bytes]) -> str:
        """Return why a request is refused, nothing if it is not."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._known(_name(host)):
            return "this address is not one that this server goes by"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in (f"http://{host}", f"https://{host}"):
            return "a page of another site cannot ask"
        if headers.get(b"sec-fetch-site", b"none").decode("latin-1") not in _SAME:
            return "a page of another site cannot ask"
        return ""

    def _is_too_long(self, scope: Message) -> bool:
        """Return whether a request says beforehand that it is too long."""
        said = dict(scope["headers"]).get(b"content-length", b"0")
        return said.isdigit() and int(said[:20]) > self._most_bytes

    def _known(self, name: str) -> bool:
        if name in self._hosts:
            return True
        if not self._bare:
            return False
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Return a `Host` header's name, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _refuse(send: Send, status: int, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
