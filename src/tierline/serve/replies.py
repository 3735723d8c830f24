"""The JSON of answers, as the OpenAI API has it."""

import json
import time
import uuid
from dataclasses import dataclass, field

from tierline.serve.job import FinishReason


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault
    """A request that is not answered: an HTTP status, and an error in the API's form."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.body = status, error_body(status, message, code=code, param=param)


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, object]:
    """Return an error as the API has it."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    kind = "rate_limit_error" if status == 429 else kind
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer's name and time, and the JSON of it, whole or in chunks."""

    model: str
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: FinishReason, tokens: int) -> dict[str, object]:
        """Return the answer that is not streamed."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(tokens)}

    def chunk(self, delta: dict[str, str], reason: FinishReason | None = None) -> bytes:
        """Return a server-sent event with a part of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def usage_chunk(self, tokens: int) -> bytes:
        """Return the server-sent event that counts tokens."""
        head = self._head("chat.completion.chunk")
        return event({**head, "choices": [], "usage": self._usage(tokens)})

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }


def event(document: object) -> bytes:
    """Return `document` as a server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
