"""What a simulation is asked for beyond its plan: strategy, policy, overlap, phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from tierline.errors import InputError
from tierline.sim.kernel import Discipline
from tierline.units import parse_bytes, parse_rate, parse_seconds

Strategy = Literal["auto", "resident", "host-stream", "layer-swap", "tiered", "kv-offload"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PolicyName = Literal[
    "fifo", "lru", "lfu", "random", "belady", "belady-bypass", "pin-prefix", "pin-spread", "pin-by-value"
]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
PINNING: tuple[PolicyName, ...] = ("pin-prefix", "pin-spread", "pin-by-value")
Granularity = Literal["layer", "tensor", "tile"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
Through = Literal["local", "bypass"]
THROUGH: tuple[Through, ...] = get_args(Through)
Instructions = Literal["loaded", "streamed"]
INSTRUCTIONS: tuple[Instructions, ...] = get_args(Instructions)
DISCIPLINES: tuple[Discipline, ...] = get_args(Discipline)

_MOST = 4096


@dataclass(frozen=True, slots=True)
class Speculation:
    """Each pass checks `draft_tokens` proposed ones, each right with chance `acceptance`; a draft token takes
    `draft_s` seconds of compute.
    """

    draft_tokens: int
    acceptance: float
    draft_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.draft_tokens <= _MOST:
            raise InputError(f"--speculate {self.draft_tokens}: want 1 to {_MOST:,} draft tokens")
        if not 0 <= self.acceptance <= 1:
            raise InputError(f"--accept {self.acceptance}: want a chance from 0 to 1")
        if not 0 <= self.draft_s < 1e6:
            raise InputError(f"--draft-time {self.draft_s}: want 0 or more seconds")

    @property
    def tokens_per_pass(self) -> float:
        """Expected tokens of a pass, the one that the pass itself makes included: `(1 - a^(k+1)) / (1 - a)`.

        Source: Leviathan, Kalman, Matias: Fast inference from transformers via speculative decoding, 2023,
        equation 1.
        """
        count, chance = self.draft_tokens, self.acceptance
        return count + 1.0 if chance == 1 else (1 - chance ** (count + 1)) / (1 - chance)


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is executed in virtual time.

    `capacity_bytes` is the fast memory that weights may use, staging slots included (None: what the rest
    leaves). `prefetch_depth` None is the strategy's own: 1 for layer-swap, the plan's for the others.
    `through` says whether streamed weights are put into local memory and read from there, or go past it.
    `dma_shared` None is what the machine says. `phase_strategies` replaces `strategy` in the phases it names.
    `passes` simulates only the last so many passes of each phase, None all of them.
    `warm` starts with everything that is kept already in place. `link_rates` (bytes/s) replaces rates.
    """

    strategy: Strategy = "auto"
    policy: PolicyName | None = None
    capacity_bytes: int | None = None
    granularity: Granularity = "layer"
    tile_bytes: int = 2**20
    prefetch_depth: int | None = None
    wrap: bool = True
    reads_in_flight: int = 1
    discipline: Discipline = "fifo"
    minimum_bytes: int = 0
    decompress_bytes_per_s: float | None = None
    dma_shared: bool | None = None
    through: Through = "local"
    instructions: Instructions = "loaded"
    phases: tuple[str, ...] = ()
    phase_strategies: Mapping[str, Strategy] = field(default_factory=dict)
    speculation: Speculation | None = None
    passes: int | None = None
    seed: int = 0
    warm: bool = False
    link_rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds = {
            "prefetch-depth": (self.prefetch_depth, 1, _MOST),
            "reads-in-flight": (self.reads_in_flight, 1, _MOST),
            "minimum": (self.minimum_bytes, 0, 2**40),
            "capacity": (self.capacity_bytes, 0, 2**60),
            "tile": (self.tile_bytes, 1, 2**60),
            "passes": (self.passes, 1, 10**9),
        }
        for name, (value, least, most) in bounds.items():
            if value is not None and not least <= value <= most:
                raise InputError(f"--{name} {value}: want {least:,} to {most:,}")
        if self.decompress_bytes_per_s is not None and not self.decompress_bytes_per_s > 0:
            raise InputError(f"--decompress {self.decompress_bytes_per_s}: want a rate above 0")

    def strategy_of(self, phase: str) -> Strategy:
        """Return the strategy that the phase called `phase` is executed with."""
        return self.phase_strategies.get(phase, self.strategy)

    def policy_of(self, strategy: Strategy) -> PolicyName:
        """Return the policy in use; only layer-swap evicts unless something else is asked for."""
        if self.policy is not None:
            return self.policy
        return "fifo" if strategy == "layer-swap" else "pin-spread"


def simulation_options(
    *,
    strategy: str = "auto",
    policy: str | None = None,
    capacity: str | None = None,
    granularity: str = "layer",
    tile: str = "1MiB",
    prefetch_depth: int | None = None,
    wrap: bool = True,
    reads_in_flight: int = 1,
    link_sharing: str = "fifo",
    minimum_transfer: str = "0B",
    decompress: str | None = None,
    dma_shared: bool | None = None,
    through: str = "local",
    instructions: str = "loaded",
    phase: Sequence[str] | None = None,
    phase_strategy: Sequence[str] | None = None,
    speculate: int = 0,
    accept: float = 0.0,
    draft_time: str = "0s",
    passes: int | None = None,
    seed: int = 0,
    warm: bool = False,
) -> Options:
    """Return the options as they are written on the command line; raise InputError for what is unknown."""
    return Options(
        strategy=cast("Strategy", one_of(strategy, STRATEGIES, "--strategy")),
        policy=None if policy is None else cast("PolicyName", one_of(policy, POLICIES, "--policy")),
        capacity_bytes=None if capacity is None else parse_bytes(capacity),
        granularity=cast("Granularity", one_of(granularity, GRANULARITIES, "--granularity")),
        tile_bytes=parse_bytes(tile),
        prefetch_depth=prefetch_depth,
        wrap=wrap,
        reads_in_flight=reads_in_flight,
        discipline=cast("Discipline", one_of(link_sharing, DISCIPLINES, "--link-sharing")),
        minimum_bytes=parse_bytes(minimum_transfer),
        decompress_bytes_per_s=None if decompress is None else parse_rate(decompress),
        dma_shared=dma_shared,
        through=cast("Through", one_of(through, THROUGH, "--through")),
        instructions=cast("Instructions", one_of(instructions, INSTRUCTIONS, "--instructions")),
        phases=tuple(phase or ()),
        phase_strategies=dict(_phase_strategy(text) for text in phase_strategy or ()),
        speculation=_speculation(speculate, accept, draft_time),
        passes=passes,
        seed=seed,
        warm=warm,
    )


def _speculation(tokens: int, accept: float, draft_time: str) -> Speculation | None:
    if tokens:
        return Speculation(tokens, accept, parse_seconds(draft_time))
    if accept or parse_seconds(draft_time):
        raise InputError("--accept and --draft-time do nothing without --speculate")
    return None


def _phase_strategy(text: str) -> tuple[str, Strategy]:
    name, equals, strategy = text.partition("=")
    if not equals:
        raise InputError(f"--phase-strategy {text[:40]!r}: write PHASE=STRATEGY, such as prefill=host-stream")
    return name, cast("Strategy", one_of(strategy, STRATEGIES, "--phase-strategy"))


def one_of(text: str, known: tuple[str, ...], option: str) -> str:
    """Return `text` if it is one of `known`; raise InputError naming `option` otherwise."""
    if text not in known:
        raise InputError(f"{option} {text[:40]!r}: want one of {', '.join(known)}")
    return text
