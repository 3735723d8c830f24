"""A training step: what is held for each parameter, and the FLOP of forward, backward and recomputation."""

from dataclasses import dataclass
from typing import Literal, get_args

from tierline.cost.amount import Values
from tierline.cost.buffers import LAYER_INPUT, BufferRules, Kernel, layer_buffers
from tierline.errors import InputError
from tierline.formats.format import Format
from tierline.models.description import Block

Optimizer = Literal["adamw", "adamw-8bit", "sgd", "sgd-momentum"]
Checkpointing = Literal["none", "selective", "full"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
CHECKPOINTINGS: tuple[Checkpointing, ...] = get_args(Checkpointing)
_LONGEST_RANK = 5  # digits
_WIDE_GRADIENTS = ":gradients=fp32"

# Bytes of optimizer state per trained parameter, without a master copy. AdamW keeps two fp32 moments
# (Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3.1); its 8-bit form one byte each and an fp32 scale
# per 2,048 of them (Dettmers et al., arXiv 2110.02861).
_STATE_BYTES: dict[Optimizer, int] = {"adamw": 8, "adamw-8bit": 2, "sgd": 0, "sgd-momentum": 4}
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained: `rank` is that of LoRA's adapters, None where every parameter is trained.

    `gradient_bytes` are per trained parameter: 2, or 4 where gradients are summed in fp32 (Megatron-LM).
    """

    optimizer: Optimizer
    rank: int | None = None
    checkpointing: Checkpointing = "none"
    gradient_bytes: int = 2

    @classmethod
    def of(cls, text: str, checkpointing: str = "none") -> "Training":
        """Return what `text` names: an optimizer, or `lora:rank=R` (adapters trained with AdamW).

        An optimizer with `:gradients=fp32` keeps gradients in fp32.

        Raises InputError for anything else, and for a checkpointing that is not one of CHECKPOINTINGS.
        """
        kept = next((c for c in CHECKPOINTINGS if c == checkpointing), None)
        if kept is None:
            raise InputError(f"--checkpointing {checkpointing!r}: want one of {', '.join(CHECKPOINTINGS)}")
        for optimizer in OPTIMIZERS:
            if text == optimizer:
                return cls(optimizer, None, kept)
            if text == f"{optimizer}{_WIDE_GRADIENTS}":
                return cls(optimizer, None, kept, 4)
        rank = text.removeprefix("lora:rank=")
        if rank != text and rank.isascii() and rank.isdigit():
            value = int(rank[:_LONGEST_RANK])
            if len(rank) <= _LONGEST_RANK and value:
                return cls("adamw", value, kept)
        wanted = ", ".join((*OPTIMIZERS, "lora:rank=16"))
        raise InputError(f"--training {text[:80]!r}: want one of {wanted} (a rank of 1 to 99,999)")

    @property
    def name(self) -> str:
        """The text that names it."""
        if self.rank is not None:
            return f"lora:rank={self.rank}"
        return self.optimizer + (_WIDE_GRADIENTS if self.gradient_bytes > 2 else "")


@dataclass(frozen=True, slots=True)
class StepFlop:
    """The FLOP of a step: one forward pass, its backward pass, and what is computed again for it."""

    forward: int
    backward: int
    recomputed: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.forward + self.backward + self.recomputed


@dataclass(frozen=True, slots=True)
class TrainingFootprint:
    """Bytes held for the parameters throughout a step; activations are not in it."""

    weights_bytes: int
    master_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return self.weights_bytes + self.master_bytes + self.gradient_bytes + self.optimizer_bytes


def training_footprint(
    weights_bytes: int, trained: int, optimizer: Optimizer, *, master: bool = True, gradient_bytes: int = 2
) -> TrainingFootprint:
    """Return what a step holds with `trained` parameters trained of weights that take `weights_bytes`.

    `master` keeps an fp32 copy of what is trained, as mixed precision does; `gradient_bytes` are per trained
    parameter. Mixed-precision AdamW is 2 + 2 + 12 = 16 bytes per parameter (ZeRO, section 3.1).
    """
    scales = 2 * 4 * -(-trained // _BLOCK) if optimizer == "adamw-8bit" else 0
    return TrainingFootprint(
        weights_bytes,
        4 * trained if master else 0,
        gradient_bytes * trained,
        _STATE_BYTES[optimizer] * trained + scales,
    )


def lora_parameters(shapes: list[tuple[int, int]], rank: int) -> int:
    """Return the parameters of adapters of `rank` on matrices (out, in): `rank * (out + in)` each.

    Source: Hu et al., LoRA, arXiv 2106.09685, section 4.1. Raises InputError for a rank below 1.
    """
    if rank < 1:
        raise InputError(f"LoRA rank {rank}: want 1 or more")
    return sum(rank * (rows + columns) for rows, columns in shapes)


def step_flop(
    forward: int, attention: int, checkpointing: Checkpointing, *, adapters: int | None = None
) -> StepFlop:
    """Return the FLOP of a step whose forward pass takes `forward`, of which `attention` in attention.

    The backward pass takes twice the forward one: gradients of the inputs, and of the weights. `adapters`
    are the forward FLOP of LoRA's, beside `forward`: the products with frozen weights then need the first
    half alone; attention has no weights and takes both. Full checkpointing repeats the forward pass,
    selective that of the attention (Korthikanti et al., arXiv 2205.05198, section 5). What a fused kernel
    computes again within itself is not counted.
    """
    trained = forward if adapters is None else adapters + attention
    frozen = forward + (adapters or 0) - trained
    passed = forward + (adapters or 0)
    again = {"none": 0, "selective": attention, "full": passed}[checkpointing]
    return StepFlop(passed, 2 * trained + frozen, again)


def kept_bytes(
    block: Block, values: Values, number_format: Format, checkpointing: Checkpointing, rules: BufferRules
) -> int:
    """Return what a layer keeps of its forward pass at `values` for its backward pass, in `number_format`.

    Every buffer of the layer that something other than a sum reads (see `buffers.layer_buffers`); with an
    eager kernel also the attention's weights, which selective checkpointing drops; norms that are not fused
    keep the rows that they scale. Full checkpointing keeps the layer's input alone. Dropout is not in it.
    """
    scores = rules.kernel == "eager" and checkpointing == "none"
    kernel: Kernel = "eager" if scores else "fused"
    rules = BufferRules(kernel=kernel, in_place=False, rotary=False, fusion=rules.fusion)
    made = layer_buffers(block, values, number_format, rules)
    if checkpointing != "full":
        return int(made.kept_bytes)
    return int(sum(b.footprint_bytes for b in made.buffers if b.first == 0 and b.name == LAYER_INPUT))


def layer_activation_bytes(
    tokens: int,
    batch: int,
    hidden: int,
    heads: int,
    checkpointing: Checkpointing,
    *,
    tensor: int = 1,
    sequence: bool = False,
) -> int:
    """Return what one layer of a GPT keeps for its backward pass, in 2-byte floats, dropout included.

    `sbh (10 + 24/t + 5as/(ht))` on each of `tensor` devices; with `sequence` parallelism the 10 are divided
    by t too. Selective recomputation drops the term of the scores, full keeps the input, `2sbh` (Korthikanti
    et al., arXiv 2205.05198, table 2).
    """
    rows = tokens * batch * hidden
    if checkpointing == "full":
        return 2 * rows
    common = 10 * rows // (tensor if sequence else 1)
    scores = 5 * heads * tokens * tokens * batch // tensor if checkpointing == "none" else 0
    return common + 24 * rows // tensor + scores
