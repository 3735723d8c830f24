"""A loaded model served until it is stopped."""

from collections.abc import Callable
from dataclasses import replace

from tierline.errors import FaultError, InputError, TierlineError
from tierline.run.images.expected import Expected, expect_images
from tierline.run.room import Room
from tierline.run.session import Session
from tierline.run.weights import Progress
from tierline.serve.app import create_app
from tierline.serve.schema import MOST_IMAGE_BYTES
from tierline.serve.service import Limits, Service
from tierline.web.guard import LOOPBACK
from tierline.web.serve import serve_app

_GRACE_S = 10
_CONNECTIONS = 512


def load(
    session: Session, *, batch: int, context: int, new: int, progress: Progress, images: int | None = None
) -> Limits:
    """Load the model with room for `batch` sequences of `context` tokens, and return what fits there.

    There is room for `images` in each pass: by default for one, if the model looks at any.

    Raises InputError for a model without a chat template or with a shorter context, and BudgetError and
    FaultError as `Session.load` does.
    """
    source = session.engine.source
    if not session.tokenizer.chat_template:
        raise InputError(f"{source.path}: has no chat template, so it cannot take part in a chat")
    longest = source.model.max_context
    if longest is not None and context > longest:
        raise InputError(f"--context {context:,}: {source.path.name} was made for at most {longest:,} tokens")
    new = min(new, context - 1)
    room = Room(context - new, new, batch, kv=session.kv)
    expected = _expected(session, images, context - min(new, context // 4), waiting=batch)
    if expected is None:
        session.load(room, progress)
    else:
        with expected.held():
            session.load(expected.room(session.looker, room), progress)
    cache_bytes = room.kv_held_bytes(source.model, source.compute_format)
    return Limits(batch, context, new, cache_bytes, expected)


def _expected(session: Session, images: int | None, tokens: int, *, waiting: int) -> Expected | None:
    """Return the images that a pass is to have room for; their files may wait for so many passes."""
    source = session.engine.source
    if images is None:
        images = int("vision_config" in source.config)
    if not images:
        return None
    if "vision_config" not in source.config:
        raise InputError(f"{source.path}: is a model of text alone, which has no use for --images {images}")
    expected = expect_images(session.looker, images, tokens)
    # One request's are made ready while another's are: its own, and the files of all that wait.
    held_bytes = 2 * expected.work_bytes + images * (1 + waiting) * MOST_IMAGE_BYTES
    return replace(expected, work_bytes=held_bytes)


def serve(
    session: Session, limits: Limits, host: str, port: int, *, announce: Callable[[str, str], None]
) -> None:
    """Serve the loaded model until interrupted; `announce` gets the address and the model's name.

    Raises InputError where the address cannot be had, and what ended the model if something did.
    """
    ended: list[BaseException] = []
    path = session.engine.source.path
    service = Service(path.stem if path.is_file() else path.resolve().name, session, limits, ended.append)
    serve_app(
        create_app(service, (host, *LOOPBACK)),
        host,
        port,
        lambda address: announce(address, service.name),
        grace_s=_GRACE_S,
        connections=_CONNECTIONS,
        ended=lambda: bool(ended),
    )
    if ended and isinstance(ended[0], TierlineError):
        raise ended[0]
    if ended:
        raise FaultError(f"the model failed: {ended[0]}") from ended[0]
