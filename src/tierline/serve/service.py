"""What stands between the API and the model: checks a request against the room, and lets it wait."""

import asyncio
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jinja2 import TemplateError

from tierline.errors import InputError
from tierline.run.batch import end_tokens
from tierline.run.generate import chat_ids
from tierline.run.images.expected import Expected
from tierline.run.images.files import decode_image
from tierline.run.images.prompt import Turn
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.serve.job import Event, Job
from tierline.serve.metrics import Metrics
from tierline.serve.queue import Queue
from tierline.serve.replies import Refusal
from tierline.serve.schema import ChatRequest
from tierline.serve.worker import Worker
from tierline.units import format_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Room: `batch` sequences of `context` tokens, whose cache takes `cache_bytes` at the most.

    `new` is the most tokens of an answer whose request does not say. `expected` are the images that a pass
    has room for, if any.
    """

    batch: int
    context: int
    new: int
    cache_bytes: int
    expected: Expected | None = None

    @property
    def images(self) -> int:
        """The most images of one pass, and so of one request."""
        return 0 if self.expected is None else len(self.expected.looked.texts)


@dataclass(slots=True)
class Ticket:
    """A job that waits or runs, and what comes of it, in order."""

    job: Job
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A conversation as token ids, and the files of its images, in order."""

    ids: list[int]
    images: Sequence[bytes] = ()


class Service:
    """One model by its `name`, its queue and its thread."""

    def __init__(
        self, name: str, session: Session, limits: Limits, failed: Callable[[BaseException], None]
    ) -> None:
        self.name, self.limits = name, limits
        self._session, self._ends = session, end_tokens(session)
        self._queue = Queue(limits.batch, limits.context, limits.images)
        self.metrics = Metrics(lambda: len(self._queue))
        self._worker = Worker(session, self._queue, self.metrics, failed)
        self._tokenizing = threading.Lock()

    def start(self) -> None:
        """Begin to answer."""
        self._worker.start()

    def stop(self) -> None:
        """End what runs, refuse what waits."""
        self._worker.stop()

    def prompt(self, asked: ChatRequest) -> "Prompted":
        """Return the conversation as token ids, and the files of its images.

        Raises Refusal where the model's template takes it not, or there is no room for its images.
        """
        if any(message.images for message in asked.messages):
            return self._prompt_with_images(asked)
        turns = [message.turn for message in asked.messages]
        try:
            with self._tokenizing:
                ids: list[int] = chat_ids(self._session.tokenizer, turns)[0].tolist()
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            why = f"the model's chat template does not take these messages: {str(error)[:200]}"
            raise Refusal(400, why, param="messages") from error
        return Prompted(ids)

    def _prompt_with_images(self, asked: ChatRequest) -> "Prompted":
        expected, count = self.limits.expected, sum(len(message.images) for message in asked.messages)
        if expected is None or count > self.limits.images:
            why = (
                f"{count} images, and room was kept for {self.limits.images}: start the server with --images"
            )
            raise Refusal(400, why, param="messages")
        turns, files = list[Turn](), list[bytes]()
        try:
            with self._tokenizing:
                looker = self._session.looker
                for message in asked.messages:
                    own = [image.data() for image in message.images]
                    decoded = [decode_image(file, "an image", expected.most_pixels) for file in own]
                    looked = expected.check(looker.look(decoded))
                    turns.append(Turn(message.turn["role"], message.turn["content"], looked.texts))
                    files += own
                return Prompted(looker.turn_ids(turns)[0].tolist(), files)
        except (InputError, ValueError) as error:
            raise Refusal(400, str(error)[:400], param="messages") from error

    def submit(self, asked: ChatRequest, prompted: "Prompted") -> Ticket:
        """Let a request wait, and return its ticket; its events come to the running loop.

        Raises Refusal where there is no room for it, in the cache or in the queue.
        """
        loop, ticket = asyncio.get_running_loop(), None

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: ticket and ticket.events.put_nowait(event))

        tokenizer = self._session.tokenizer
        job = Job(
            prompted.ids,
            self._request(asked, len(prompted.ids)),
            images=prompted.images,
            stops=asked.stops,
            ends=self._ends,
            tokenizer=tokenizer.backend_tokenizer,
            emit=emit,
        )
        ticket = Ticket(job)
        if not self._queue.put(job):
            raise Refusal(429, "too many requests wait for the model; try again later")
        return ticket

    def _request(self, asked: ChatRequest, prompt: int) -> Request:
        limits = self.limits
        new = asked.most_tokens or max(1, min(limits.new, limits.context - prompt))
        if prompt + new > limits.context:
            raise Refusal(400, self._no_room(prompt, new), code="context_length_exceeded", param="messages")
        return Request(
            "",
            new=new,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=secrets.randbits(62) if asked.seed is None else asked.seed,
        )

    def _no_room(self, prompt: int, new: int) -> str:
        limits = self.limits
        return (
            f"{prompt:,} tokens of messages and {new:,} new ones are {prompt + new:,}, and room was kept "
            f"for {limits.context:,} ({limits.batch} times, in {format_bytes(limits.cache_bytes)} of cache): "
            "shorten the messages, ask for fewer tokens, or start the server with a larger --context"
        )
