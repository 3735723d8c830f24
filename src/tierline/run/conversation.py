"""Turns of one conversation: what was computed for one is kept for the next, in memory or in a file."""

from pathlib import Path

from transformers import Cache, DynamicCache

from tierline.errors import InputError
from tierline.run.generate import Emit, chat_ids, prompt_ids
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.session_file import Saved, fingerprint, load_session, save_session
from tierline.run.weights import Progress


class Conversation:
    """Turns of at most `context` tokens: each is computed once, and the cache carries over to the next."""

    def __init__(self, session: Session, context: int, progress: Progress, first: Request) -> None:
        """Load the model of `session` for requests like `first`; raises as `Session.answer` does.

        Raises InputError where turns need a chat template and the model has none.
        """
        self._session, self._context = session, context
        if not first.raw and not session.tokenizer.chat_template:
            path = session.engine.source.path
            raise InputError(
                f"{path}: has no chat template, so it cannot converse; --raw sends text as it is"
            )
        self._prediction = session.prepare_turns(context, first.speculate, progress)
        self._turns: list[dict[str, str]] = []
        self._cached: list[int] = []
        self._cache = self._empty()

    def say(self, request: Request, emit: Emit) -> RunReport:
        """Answer `request.text` as the next turn, or as it is if `raw`, and return what it took.

        What the text has in common with what was said before is not computed again. Raises InputError, the
        conversation unchanged, where the turn would outgrow the context.
        """
        turns = [*self._turns, {"role": "user", "content": request.text}]
        tokenizer = self._session.tokenizer
        ids = prompt_ids(tokenizer, request) if request.raw else chat_ids(tokenizer, turns)
        if ids.shape[1] + request.new > self._context:
            raise InputError(
                f"{ids.shape[1]:,} tokens of conversation and {request.new:,} new ones are more than the "
                f"{self._context:,} that room was kept for: start anew, or give a larger --context"
            )
        self._keep_common(ids[0].tolist())
        report = self._session.run_ids(ids, request, self._prediction, emit, self._cache)
        # The last token was chosen but never computed with, so it is not in the cache.
        self._cached = [*ids[0].tolist(), *report.token_ids][: self._cache.get_seq_length()]
        if not request.raw:
            self._turns = [*turns, {"role": "assistant", "content": report.text}]
        return report

    def save(self, path: Path) -> None:
        """Write the turns and their cache to `path`; raises InputError where that cannot be done."""
        saved = Saved(tuple(self._turns), tuple(self._cached))
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
        self._turns, self._cached = [dict(turn) for turn in saved.turns], list(saved.token_ids)
        return len(self._cached)

    def _empty(self) -> Cache:
        engine = self._session.engine
        return engine.new_cache() or DynamicCache(config=engine.model.config)

    def _model(self) -> str:
        return fingerprint(self._session.engine.source)

    def _kv(self) -> str:
        return self._session.kv.format or str(self._session.engine.model.dtype).removeprefix("torch.")

    def _keep_common(self, ids: list[int]) -> None:
        """Cut the cache back to what it has in common with `ids`, leaving at least one token to compute."""
        common = 0
        for ours, theirs in zip(self._cached, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        surplus = self._cache.get_seq_length() - common
        if not surplus:
            return
        try:
            self._cache.crop(-surplus)
        except RuntimeError:  # a sliding window has dropped what would now be in it again
            self._cache = self._empty()
