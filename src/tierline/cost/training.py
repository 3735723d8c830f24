"""A training step: what is held for each parameter, and the FLOP of forward, backward and recomputation."""

from dataclasses import dataclass
from typing import Literal, get_args

from tierline.errors import InputError

Optimizer = Literal["adamw", "adamw-8bit", "sgd", "sgd-momentum"]
Checkpointing = Literal["none", "selective", "full"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)

# Bytes of optimizer state per trained parameter, without a master copy. AdamW keeps two fp32 moments
# (Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3.1); its 8-bit form one byte each and an fp32 scale
# per 2,048 of them (Dettmers et al., arXiv 2110.02861).
_STATE_BYTES: dict[Optimizer, int] = {"adamw": 8, "adamw-8bit": 2, "sgd": 0, "sgd-momentum": 4}
_BLOCK = 2048


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


def step_flop(forward: int, attention: int, checkpointing: Checkpointing, *, trained: bool = True) -> int:
    """Return the FLOP of a step whose forward pass takes `forward`, of which `attention` in attention.

    The backward pass takes twice the forward one, or once where the weights are not `trained` (LoRA:
    gradients of activations only). Full checkpointing repeats the forward pass, selective that of the
    attention (Korthikanti et al., arXiv 2205.05198, section 5).
    """
    recomputed = {"none": 0, "selective": attention, "full": forward}[checkpointing]
    return forward + (2 if trained else 1) * forward + recomputed


def layer_activation_bytes(
    tokens: int, batch: int, hidden: int, heads: int, checkpointing: Checkpointing
) -> int:
    """Return what one layer of a GPT keeps for its backward pass, in 2-byte floats, dropout included.

    `sbh (34 + 5as/h)`; selective recomputation drops the second term, full keeps the input, `2sbh`
    (Korthikanti et al., arXiv 2205.05198, equations 1 and 6 and table 2, without parallelism).
    """
    rows = tokens * batch * hidden
    kept = {"none": 34 * rows, "selective": 34 * rows, "full": 2 * rows}[checkpointing]
    return kept + (5 * heads * tokens * tokens * batch if checkpointing == "none" else 0)
