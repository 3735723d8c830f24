"""What would help: every change simulated alone, then the ones that pay best together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tierline.errors import TierlineError
from tierline.machines.machine import Machine, Rate
from tierline.models.description import Model
from tierline.plan.sensitivity import parts
from tierline.search.command import Given, changed, command, simulated
from tierline.sim.simulate import SimResult

Accuracy = Literal["lossless", "lossy"]
# Narrower formats that are tried, from wide to narrow.
_WEIGHTS = ("int8:channel", "mxfp8", "int4:group=64", "mxfp4")
_KV = ("mxfp8", "mxfp4")
_BATCHES, _DEPTHS, _DRAFTS, _CHUNKS = (2, 4, 8, 16), (1, 2, 3, 4, 8), (2, 4, 7), (64, 256, 1024)
_POLICIES = ("pin-spread", "pin-by-value", "pin-prefix")
_MIN_SHARE = 0.02  # a class with less of the weights is not worth a line of its own
_WORTHWHILE = 1.005
_OF_A_KIND, _HARMLESS = 2, 0.98  # what does little alone may do more beside others


@dataclass(frozen=True, slots=True)
class Change:
    """Options to give instead. Of one `kind` only one goes into a combination; `buys` is other hardware."""

    kind: str
    what: str
    options: Given
    accuracy: Accuracy = "lossless"
    buys: bool = False


@dataclass(frozen=True, slots=True)
class Advice:
    """Changes, and what their simulation says.

    `gain` is how many times as many sequences are done in the same time, None where nothing ran before.
    `added_bytes` is what the fast tier holds more at its fullest.
    """

    changes: tuple[Change, ...]
    given: Given
    time_s: float
    sequence_s: float
    tokens_per_s: float | None
    gain: float | None
    added_bytes: int | None

    @property
    def accuracy(self) -> Accuracy:
        """Lossy where any of the changes is."""
        return "lossy" if any(change.accuracy == "lossy" for change in self.changes) else "lossless"

    @property
    def buys(self) -> bool:
        """Whether it takes other hardware."""
        return any(change.buys for change in self.changes)

    @property
    def command(self) -> str:
        """The command that gives the same figures."""
        return command("simulate", self.given)


@dataclass(frozen=True, slots=True)
class Advised:
    """How it is now (None where it cannot run, with why), what helps, best first, and what pays together.

    `combinations` are the best without loss and the best of all, both on the machine as it is.
    """

    now: Advice | None
    reason: str
    single: tuple[Advice, ...]
    useless: tuple[Advice, ...]
    combinations: tuple[Advice, ...]


def advise(given: Given, model: Model, machine: Machine, *, accept: float, draft_time: str = "0s") -> Advised:
    """Return what would help a simulation with these options.

    `accept` is the chance that a draft token is right, `draft_time` what one takes.
    """
    try:
        base: SimResult | None = simulated(given)
        reason = ""
    except TierlineError as error:
        base, reason = None, str(error)
    study = _Study(given, base)
    drafts = {"accept": (str(accept),), "draft_time": (draft_time,)}
    changes = list(changes_for(given, model, machine, base, drafts))
    tried = [advice for change in changes if (advice := study.of((change,))) is not None]
    tried.sort(key=lambda advice: advice.sequence_s)
    single = [advice for advice in tried if study.helps(advice)]
    useless = tuple(advice for advice in tried if not study.helps(advice))
    lossless = [advice for advice in tried if advice.accuracy == "lossless"]
    found: dict[str, Advice] = {}
    for candidates in (lossless, tried):
        together = study.combined(_best_of_kinds(candidates))
        if together is not None and len(together.changes) > 1:
            found[together.command] = together
    return Advised(study.now, reason, tuple(single), useless, tuple(found.values()))


def _best_of_kinds(advices: Sequence[Advice]) -> list[Change]:
    """Return of sorted advice the best two changes of every kind that buy nothing and slow nothing."""
    kept: dict[str, list[Change]] = {}
    for advice in advices:
        change = advice.changes[0]
        of_kind = kept.setdefault(change.kind, [])
        if not change.buys and len(of_kind) < _OF_A_KIND and (advice.gain is None or advice.gain > _HARMLESS):
            of_kind.append(change)
    return [change for of_kind in kept.values() for change in of_kind]


class _Study:
    """Simulations beside the one that everything is compared with."""

    def __init__(self, given: Given, base: SimResult | None) -> None:
        self._given, self._base = given, base
        self.now = None if base is None else self._advice((), given, base)

    def of(self, changes: tuple[Change, ...]) -> Advice | None:
        """Return what the changes do together; None where that does not run."""
        options = self._given
        for change in changes:
            options = changed(options, change.options)
        try:
            return self._advice(changes, options, simulated(options))
        except TierlineError:
            return None

    def helps(self, advice: Advice) -> bool:
        """Return whether it is faster than now by more than half a per cent."""
        return advice.gain is None or advice.gain > _WORTHWHILE

    def combined(self, changes: Sequence[Change]) -> Advice | None:
        """Return the best combination, one change of a kind: what helps most is added until nothing does."""
        best = self.now
        while True:
            taken = best.changes if best is not None else ()
            kinds = {change.kind for change in taken}
            grown = [self.of((*taken, change)) for change in changes if change.kind not in kinds]
            found = min((a for a in grown if a is not None), key=lambda a: a.sequence_s, default=None)
            if found is None or (best is not None and found.sequence_s * _WORTHWHILE >= best.sequence_s):
                return best
            best = found

    def _advice(self, changes: tuple[Change, ...], given: Given, result: SimResult) -> Advice:
        per_sequence = result.time_s / result.plan.workload.batch
        base = self._base
        gain = added = None
        if base is not None:
            gain = base.time_s / base.plan.workload.batch / per_sequence if per_sequence else None
            added = _peak_bytes(result) - _peak_bytes(base)
        return Advice(changes, given, result.time_s, per_sequence, result.tokens_per_s_steady, gain, added)


def _peak_bytes(result: SimResult) -> int:
    return max(p.resident_bytes for p in result.schedule.passes)


def changes_for(
    given: Given, model: Model, machine: Machine, base: SimResult | None, drafts: Given
) -> Iterator[Change]:
    """Yield everything that is tried; `drafts` are the options of a speculation."""
    counts = {name: count for name, (_, count) in parts(model).items()}
    yield from _formats(given, {name: count / max(1, model.parameters) for name, count in counts.items()})
    yield from _placements(given, base)
    yield from _workloads(given, base, drafts)
    yield from _hardware(machine)


def _formats(given: Given, shares: Mapping[str, float]) -> Iterator[Change]:
    now = given.get("weights", ("",))[0]
    for name in _WEIGHTS:
        if name != now:
            yield Change("weights", f"weights in {name}", {"weights": (name,)}, "lossy")
    for selector, share in shares.items():
        if share < _MIN_SHARE:
            continue
        for name in (_WEIGHTS[1], _WEIGHTS[-1]):
            kept = {"keep": (f"{selector}={name}",)}
            yield Change(f"keep {selector}", f"{selector} in {name}", kept, "lossy")
    for name in _KV:
        if name != given.get("kv", ("bf16",))[0]:
            yield Change("kv", f"KV cache in {name}", {"kv": (name,)}, "lossy")
    if given.get("activation_policy", ("fused",))[0] not in ("fused", "none"):
        yield Change("activations", "activations fused", {"activation_policy": ("fused",)})


def _placements(given: Given, base: SimResult | None) -> Iterator[Change]:
    for policy in _POLICIES:
        what = {"pin-spread": "pinned layers spread", "pin-by-value": "pinned by value"}
        options = {"strategy": ("tiered",), "policy": (policy,)}
        yield Change("placement", what.get(policy, "a pinned prefix"), options)
    yield Change("placement", "everything streamed", {"strategy": ("host-stream",)})
    if base is not None and base.plan.machine.links:
        yield Change("through", "streamed past local memory", {"through": ("bypass",)}, buys=True)
    for depth in _DEPTHS:
        yield Change("depth", f"prefetch depth {depth}", {"prefetch_depth": (str(depth),)})
    yield Change("pieces", "streamed by tiles", {"granularity": ("tile",), "tile": ("16MiB",)})
    if given.get("hoist", ("true",))[0] == "false":
        yield Change("hoist", "static operations once a phase", {"hoist": ("true",)})


def _workloads(given: Given, base: SimResult | None, drafts: Given) -> Iterator[Change]:
    batch = int(given.get("batch", ("1",))[0])
    for times in _BATCHES:
        yield Change("batch", f"batch {batch * times}", {"batch": (str(batch * times),)})
    phases = {phase.name for phase in base.plan.phases} if base is not None else {"prefill", "decode"}
    if "decode" in phases and "speculate" not in given:
        for count in _DRAFTS:
            chance, draft_time = float(drafts["accept"][0]), drafts["draft_time"][0]
            what = f"{count} draft tokens, {chance:.0%} right, {draft_time} each"
            yield Change("speculation", what, {"speculate": (str(count),), **drafts})
    if "prefill" in phases:
        for rows in _CHUNKS:
            yield Change("chunk", f"prefill in chunks of {rows}", {"prefill_chunk": (str(rows),)})
    if base is not None and "denoise" in phases:
        steps = base.plan.workload.steps
        for fewer in sorted({steps // 2, steps // 5} - {0, steps}, reverse=True):
            yield Change("steps", f"{fewer} denoising steps", {"steps": (str(fewer),)}, "lossy")


def _hardware(machine: Machine) -> Iterator[Change]:
    fast = machine.fast
    rates: list[tuple[str, Rate | None]] = [
        (fast.name, fast.rate),
        *((x.name, x.rate) for x in machine.links),
    ]
    for name, rate in rates:
        if rate is not None and (rate.sustained or rate.peak):
            doubled = round(2 * rate.value)
            faster = (f"{name}.peak={doubled}B/s", f"{name}.sustained={doubled}B/s")
            yield Change(f"link {name}", f"twice the rate of {name}", {"overrides": faster}, buys=True)
    capacity = int(fast.capacity_bytes.value)
    for times in (2, 4):
        larger = (f"{fast.name}.capacity={times * capacity}B",)
        yield Change("memory", f"{times} times the memory of {fast.name}", {"overrides": larger}, buys=True)
