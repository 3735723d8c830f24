"""A model that answers, with its tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import torch
from transformers import Cache, PreTrainedTokenizerBase

from tierline.errors import InputError
from tierline.place.cache import OnlinePolicyName
from tierline.run.copy_link import PacedCopyLink
from tierline.run.direct_io import DirectFile
from tierline.run.engine import Engine
from tierline.run.generate import Answer, Emit, generate, prompt_ids
from tierline.run.host_tier import HostTier
from tierline.run.images.expected import Expected
from tierline.run.images.files import read_image
from tierline.run.images.prompt import Looker
from tierline.run.kv.choice import KvChoice
from tierline.run.pace import Pace, PacedFile, PacedLink
from tierline.run.predict import Prediction, hosted, paced
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.report import RunReport, make_report
from tierline.run.request import Request
from tierline.run.room import Room
from tierline.run.source import Source
from tierline.run.staging import READERS
from tierline.run.stripe import StripedFile, check_copies
from tierline.run.weights import Progress
from tierline.trace import TraceEvent


class Session:
    """A model on disk, opened to answer; use it as a context manager, or `close` it."""

    def __init__(
        self,
        source: Source,
        *,
        resident: int | None,
        memory: int | None,
        keep_events: bool = False,
        pace: Pace | None = None,
        verify: bool = False,
        kv: KvChoice | None = None,
        stripes: Sequence[Path] = (),
        host_bytes: int | None = None,
        expert_policy: OnlinePolicyName | None = None,
    ) -> None:
        """With `pace`, the model is read at the rate of another machine's link.

        With `host_bytes`, so much memory stands for a host's between disk and device, and the paced link for
        the one to the device: weights are read at the disk's own rate, and copied at that of the pace.

        `stripes` are copies of the model's file that are read beside it, each over a link of its own.

        `kv` is how the cache is kept, by default as computed and in memory.

        `expert_policy` decides which experts leave memory first, where there are any: `lfu` by default.

        With `verify`, weights are held against the checksums of a packed file before they are used.
        """
        self.tokenizer: PreTrainedTokenizerBase = source.tokenizer()
        check_copies(source, stripes)
        self._pace, host = pace, None
        if pace is not None and host_bytes is not None:
            host = HostTier(host_bytes, PacedCopyLink(pace), readers=READERS)
        self._links = [] if pace is None or host else [PacedLink(pace) for _ in (source, *stripes)]
        self._stripes = tuple(stripes)
        self.engine = Engine(
            source,
            resident=resident,
            memory=memory,
            verify=verify,
            opener=self._open if self._links or stripes else None,
            links=1 + len(stripes),
            host=host,
            expert_policy=expert_policy,
        )
        self.partial = Answer()
        self.kv = kv or KvChoice()
        self._keep_events = keep_events

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give threads, memory and descriptors back; a second call does nothing."""
        for link in self._links:
            link.stop()
        self.engine.close()

    def _open(self, path: Path) -> DirectFile:
        """Open a file and, of the model's one, its copies, behind a paced link each if there is a pace."""
        paths = (path, *self._stripes)
        if not self._links:
            files = [DirectFile(p) for p in paths]
        else:
            files = [PacedFile(p, link) for p, link in zip(paths, self._links, strict=True)]
        return files[0] if len(files) == 1 else StripedFile(files)

    @property
    def events(self) -> Sequence[TraceEvent]:
        """What happened while answering, if events were asked for; times are since the first answer began."""
        return self.engine.recorder.events

    def answer(self, request: Request, *, progress: Progress, emit: Emit) -> RunReport:
        """Load the model for `request`, run it, and return what it took; text goes to `emit` as it comes.

        Raises BudgetError where a budget cannot work and FaultError where a read fails; `partial` then
        holds what had come by that time.
        """
        return self.execute(self.prepare(request, progress), emit)

    def prepare(self, request: Request, progress: Progress) -> "Prepared":
        """Load the model for `request` and return it with what is predicted; raises as `answer` does."""
        seen = self._seen(request) if request.images else {}
        ids = self.checked(seen["input_ids"] if seen else prompt_ids(self.tokenizer, request), request)
        room = Room(
            prompt_tokens=ids.shape[1], new=request.new, drafts=request.speculate, kv=self.kv, seen=seen
        )
        prediction = self.load(room, progress)
        return Prepared(request, ids, prediction, seen)

    @cached_property
    def looker(self) -> Looker:
        """What makes images ready for the model; raises InputError where it cannot look at any."""
        return Looker(self.engine.source, self.tokenizer)

    def _seen(self, request: Request) -> Mapping[str, torch.Tensor]:
        """Return the prompt of `request` as the model takes it, its images included."""
        looked = self.looker.look([read_image(path) for path in request.images])
        return self.looker.inputs(self.looker.prompt_ids(request, looked.texts), looked)

    def checked(self, ids: torch.Tensor, request: Request) -> torch.Tensor:
        """Return `ids`, shape `(1, tokens)`; raise InputError where they and the answer are too many."""
        longest = self.engine.source.model.max_context
        if longest is not None and ids.shape[1] + request.new > longest:
            raise InputError(
                f"a prompt of {ids.shape[1]:,} tokens and {request.new:,} new ones are more than the "
                f"{longest:,} that {self.engine.source.path.name} was made for: shorten it, or lower --new"
            )
        return ids

    def execute(self, prepared: "Prepared", emit: Emit) -> RunReport:
        """Run what was prepared; returns, emits and raises as `answer` does."""
        cache = self.engine.new_cache()
        return self.run_ids(
            prepared.ids, prepared.request, prepared.prediction, emit, cache, seen=prepared.seen
        )

    def prepare_turns(
        self, context: int, drafts: int, progress: Progress, expected: Expected | None = None
    ) -> Prediction:
        """Load the model for turns of at most `context` tokens in all; return what is predicted of a step.

        With `expected`, there is room for such images in each turn.
        """
        new = max(1, context // 4)
        room = Room(max(1, context - new), new, drafts=drafts, kv=self.kv)
        if expected is None:
            return self.load(room, progress)
        with expected.held():
            return self.load(expected.room(self.looker, room), progress)

    def load(self, room: Room, progress: Progress) -> Prediction:
        """Load the model for `room` and return what is predicted: with a pace, at the rate of its link."""
        prediction = replace(self.engine.load(room, progress), links=1 + len(self._stripes))
        if self._pace and self.engine.host and self.engine.weights is not None:
            return hosted(prediction, self._pace, self.engine.host, self.engine.weights.plan)
        if not self._links or self.engine.weights is None:
            return prediction
        return paced(prediction, self._links[0].pace, self.engine.read_sizes_bytes)

    def run_ids(
        self,
        ids: torch.Tensor,
        request: Request,
        prediction: Prediction,
        emit: Emit,
        cache: Cache | None,
        *,
        seen: Mapping[str, torch.Tensor] | None = None,
    ) -> RunReport:
        """Answer the prompt `ids`, shape `(1, tokens)`, the first of which may be in `cache` already.

        `seen` is the prompt as the model takes it where images are part of it.
        """
        self.partial = Answer()
        if self._keep_events and not self.engine.recorder.on:
            self.engine.recorder.begin()
        reset_peak()
        generate(
            self.engine.model,
            self.tokenizer,
            ids,
            request,
            self.partial,
            meter=self.engine.measured,
            emit=emit,
            cache=cache,
            seen=seen,
        )
        assert self.engine.weights is not None  # noqa: S101 - load has set it
        return make_report(
            self.partial,
            self.engine.weights,
            prediction,
            allowed_bytes=self.engine.allowed_bytes,
            reserved_bytes=self.engine.reserved_bytes,
            measured_bytes=peak_resident_bytes(),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose model is loaded: its token ids, shape `(1, tokens)`, and what is predicted.

    `seen` is the prompt as the model takes it where images are part of it.
    """

    request: Request
    ids: torch.Tensor
    prediction: Prediction
    seen: Mapping[str, torch.Tensor] = field(default_factory=dict)
