"""Turns of one conversation: what was computed for one is kept for the next, in memory or in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Cache, DynamicCache

from tierline.errors import InputError
from tierline.run.generate import Emit, chat_ids, prompt_ids
from tierline.run.images.expected import Expected, expect_images
from tierline.run.images.files import read_image
from tierline.run.images.prompt import Looked, Turn
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.session_file import Saved, fingerprint, load_session, save_session
from tierline.run.weights import Progress


class Conversation:
    """Turns of at most `context` tokens: each is computed once, and the cache carries over to the next."""

    def __init__(
        self, session: Session, context: int, progress: Progress, first: Request, *, saved: bool = False
    ) -> None:
        """Load the model of `session` for requests like `first`, with room for as many images in each turn.

        Raises as `Session.answer` does, and InputError where turns need a chat template and the model has
        none, or where they are to be `saved` and what images take of them cannot be.
        """
        self._session, self._context = session, context
        path = session.engine.source.path
        if not first.raw and not session.tokenizer.chat_template:
            raise InputError(
                f"{path}: has no chat template, so it cannot converse; --raw sends text as it is"
            )
        self._expected: Expected | None = None
        if first.images:
            if saved and session.looker.places_images:
                raise InputError(
                    f"{path}: counts positions by image, which a session file does not keep: show images "
                    "with --chat, without --session"
                )
            self._expected = expect_images(session.looker, len(first.images), context - first.new)
        self.prediction = replace(
            session.prepare_turns(context, first.speculate, progress, self._expected), prompt_read_bytes=None
        )
        self._turns: list[Turn] = []
        self._shown: list[Path | None] = []  # every image so far, None for one of a session file
        self._cached: list[int] = []
        self._cache = self._empty()

    def say(self, request: Request, emit: Emit) -> RunReport:
        """Answer `request.text` and its images as the next turn, or as they are if `raw`.

        What they have in common with what was said before is not computed again. Returns what it took.
        Raises InputError, the conversation unchanged, where the turn would outgrow the context, or has more
        images than there is room for.
        """
        looked = self._look(request.images)
        turns = [*self._turns, Turn("user", request.text, looked.texts)]
        shown = [*([] if request.raw else self._shown), *request.images]
        texts = looked.texts if request.raw else tuple(text for turn in turns for text in turn.images)
        ids = self._ids(request, turns, looked.texts)
        if ids.shape[1] + request.new > self._context:
            raise InputError(
                f"{ids.shape[1]:,} tokens of conversation and {request.new:,} new ones are more than the "
                f"{self._context:,} that room was kept for: start anew, or give a larger --context"
            )
        common = 0 if self._starts_anew(request) else self._common(ids[0].tolist())
        seen = self._seen(ids, common, texts, shown, looked) if texts else None
        self._keep(common)
        report = self._session.run_ids(ids, request, self.prediction, emit, self._cache, seen=seen)
        # The last token was chosen but never computed with, so it is not in the cache.
        self._cached = [*ids[0].tolist(), *report.token_ids][: self._cache.get_seq_length()]
        if not request.raw:
            self._turns, self._shown = [*turns, Turn("assistant", report.text)], shown
        return report

    def _look(self, paths: Sequence[Path]) -> Looked:
        if not paths:
            return Looked()
        if self._expected is None:
            raise InputError("the conversation was begun without images: begin it with --image FILE")
        most_pixels = self._expected.most_pixels
        return self._expected.check(
            self._session.looker.look([read_image(path, most_pixels) for path in paths])
        )

    def _ids(self, request: Request, turns: Sequence[Turn], images: Sequence[str]) -> torch.Tensor:
        if request.raw and images:
            return self._session.looker.raw_ids(request.text, images)
        if request.raw:
            return prompt_ids(self._session.tokenizer, request)
        if any(turn.images for turn in turns):
            return self._session.looker.turn_ids(turns)
        said = [{"role": turn.role, "content": turn.content} for turn in turns]
        return chat_ids(self._session.tokenizer, said)

    def _starts_anew(self, request: Request) -> bool:
        """Whether nothing of the cache can be kept.

        Raw text may name the same tokens for other images; and who counts positions by image has to see them
        all at once.
        """
        return bool(request.images) and (request.raw or self._session.looker.places_images)

    def _seen(
        self,
        ids: torch.Tensor,
        cached: int,
        texts: Sequence[str],
        shown: Sequence[Path | None],
        looked: Looked,
    ) -> Mapping[str, torch.Tensor] | None:
        """Return the prompt `ids` with those images that are not among the first `cached` tokens."""
        count = self._session.looker.uncached(ids[0].tolist(), cached, texts)
        if not count:
            return None
        if count > len(looked.texts):
            paths = [path for path in shown[-count:] if path is not None]
            if len(paths) < count:
                raise InputError("the answer needs an image of the session file again: start anew without it")
            looked = self._look(paths)
        return self._session.looker.inputs(ids, looked)

    def save(self, path: Path) -> None:
        """Write the turns and their cache to `path`; raises InputError where that cannot be done."""
        turns = (
            {"role": turn.role, "content": turn.content, **({"images": turn.images} if turn.images else {})}
            for turn in self._turns
        )
        saved = Saved(tuple(turns), tuple(self._cached))
        save_session(path, self._cache, saved, model=self._model(), kv=self._kv())

    def restore(self, path: Path) -> int:
        """Go on from what was saved in `path`; return how many tokens need not be computed again.

        Raises InputError where the file is damaged, another model's, or holds more tokens than there is room
        for.
        """
        dtype = self._session.engine.model.dtype
        try:
            saved = load_session(path, self._cache, model=self._model(), kv=self._kv(), dtype=dtype)
        except InputError:
            self._cache = self._empty()
            raise
        if len(saved.token_ids) >= self._context:
            raise InputError(
                f"{path}: holds {len(saved.token_ids):,} tokens, and room was kept for {self._context:,}: "
                "give a larger --context"
            )
        self._turns = [_turn(path, turn) for turn in saved.turns]
        self._shown = [None for turn in self._turns for _ in turn.images]
        self._cached = list(saved.token_ids)
        return len(self._cached)

    def _empty(self) -> Cache:
        engine = self._session.engine
        return engine.new_cache() or DynamicCache(config=engine.model.config)

    def _model(self) -> str:
        return fingerprint(self._session.engine.source)

    def _kv(self) -> str:
        return self._session.kv.format or str(self._session.engine.model.dtype).removeprefix("torch.")

    def _common(self, ids: Sequence[int]) -> int:
        """Return how many of the first of `ids` are in the cache, leaving at least one to compute."""
        for place, (ours, theirs) in enumerate(zip(self._cached, ids[:-1], strict=False)):
            if ours != theirs:
                return place
        return min(len(self._cached), len(ids) - 1)

    def _keep(self, common: int) -> None:
        """Cut the cache back to its first `common` tokens."""
        surplus = self._cache.get_seq_length() - common
        if not surplus:
            return
        try:
            self._cache.crop(-surplus)
        except RuntimeError:  # a sliding window has dropped what would now be in it again
            self._cache = self._empty()


def _turn(path: Path, turn: Mapping[str, object]) -> Turn:
    """Return a turn of a session file; raise InputError where it is none."""
    role, content, images = turn.get("role"), turn.get("content"), turn.get("images", [])
    if (
        isinstance(role, str)
        and isinstance(content, str)
        and isinstance(images, list)
        and all(isinstance(text, str) for text in images)
    ):
        return Turn(role, content, tuple(images))
    raise InputError(f"{path}: is not a whole session file: a turn is none; start anew without it")
