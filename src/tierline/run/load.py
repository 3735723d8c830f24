"""`tierline.load`: a model bigger than the memory it is given, as an ordinary transformers model."""

from pathlib import Path
from types import TracebackType
from typing import Any

from tierline.run.early import refuse_at_once
from tierline.run.engine import Engine
from tierline.run.room import Room
from tierline.run.source import open_source
from tierline.units import parse_bytes

DEFAULT_CONTEXT = 2048
_NEW = 256


class Streamed:
    """What a loaded model can do besides being itself: `close`, or be used in a `with` block."""

    _engine: Engine

    def __enter__(self) -> Any:  # noqa: ANN401 - it is whatever model it is
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the readers, give memory and descriptors back; a second call does nothing."""
        self._engine.close()

    @property
    def weights_held_bytes(self) -> int:
        """The most weight bytes that were held at once, staging included."""
        return self._engine.weights.ledger.peak_bytes if self._engine.weights else 0


def load(
    path: str | Path,
    *,
    memory: str | int | None = None,
    resident: str | int | None = None,
    context: int = DEFAULT_CONTEXT,
    batch: int = 1,
    verify: bool = False,
) -> Any:  # noqa: ANN401 - a class made of Streamed and the model's own, which has no name before
    """Return the model at `path` with its weights pinned and streamed within a budget.

    It is an instance of its transformers class: `.generate()` and calls work as ever. It also has `close()`
    and works as a context manager. `memory` is the most bytes for the whole process and `resident` the most
    weight bytes held at once (bytes, or text such as "4GiB"); without either, what is free is used. Room is
    kept for `batch` sequences of `context` tokens. `verify` holds weights against the checksums of a packed
    file, pinned ones while they are loaded and streamed ones at first use (FaultError if they differ). Raises
    InputError for files that cannot be run and BudgetError for a budget that cannot work.
    """
    source, allowed = open_source(Path(path)), _bytes(resident)
    if allowed is not None:
        refuse_at_once(source, resident=allowed)
    engine = Engine(source, resident=allowed, memory=_bytes(memory), verify=verify)
    try:
        engine.load(Room(max(1, context - _NEW), min(context - 1, _NEW), batch), lambda *_: None)
    except BaseException:
        engine.close()
        raise
    model: Any = engine.model
    model.__class__ = type(type(model).__name__, (Streamed, type(model)), {})
    model._engine = engine  # noqa: SLF001 - Streamed declares it
    return model


def _bytes(value: str | int | None) -> int | None:
    return parse_bytes(value) if isinstance(value, str) else value
