"""llama.cpp's mixes: `q4_k_m` and its kin choose a block type for each tensor.

The rule is that of `llama_tensor_get_type_impl` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp, without an importance matrix, applied to every component as llama.cpp does to the
decoder. Falcon's exceptions are left out, and so are mixes that need an importance matrix or the number of
query heads per key (q2_k, iq*).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tierline.formats.format import Format
from tierline.formats.ggml import GgmlBlocks, ggml_blocks
from tierline.formats.plain import FP16, FP32
from tierline.formats.weight import Weight

Role = Literal["attn_v", "attn_k", "attn_output", "ffn_down", "other"]
Depth = Literal["all", "more_bits", "first_eighth", "first_sixteenth", "first_4", "first_2"]

# Where a row does not divide into blocks of 256, the type with blocks of 32 that stands in.
_FALLBACKS = {"q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
# What converters leave as numbers: vectors and norms, router, positions, state-space parameters, kernels.
_UNQUANTISED = ("norms", "biases", "router", "positions", "state", "conv")
# Fused QKV and MLA's KV up-projection are treated as values. (Files from before llama.cpp's refactoring of
# 2026 have fused QKV in q5_k under q4_k_m and in q6_k under q5_k_m throughout.)
_ATTENTION_ROLES: tuple[tuple[Role, str], ...] = (
    ("attn_v", r"(attn_)?v(_proj|_lin|alue)?|kv_b_proj|attn_kv_b"),
    ("attn_v", r"c_attn|(attn_)?qkv(_proj)?|Wqkv|query_key_value|in_proj(_weight)?"),
    ("attn_k", r"(attn_)?k(_proj|_lin|ey)?"),
    ("attn_output", r"(attn_)?o(_proj|utput)?|out_(proj|lin)|c_proj|dense"),
)
_DOWN = re.compile(
    r"(.*\.)?(down_proj|ffn_down(_exps|_shexp)?|fc2|fc_out|lin(ear_)?2|w2|wo|c_proj|dense_4h_to_h|output\.dense)"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors of `role` in the layers that `depth` names get `blocks`."""

    role: Role
    depth: Depth
    blocks: str


@dataclass(frozen=True, slots=True)
class Mix:
    """A rule that gives each weight tensor a format; `base` is the block type of most of them.

    Of `rules` the first that matches counts. `careful_output` is whether models of 8 experts get q5_k for the
    output projection of their attention.
    """

    name: str
    base: str
    rules: tuple[Rule, ...] = ()
    careful_output: bool = False
    source: str = "llama-quant"

    def format_of(self, weight: Weight) -> Format:
        """Return the format that llama.cpp gives this tensor: blocks, a fallback, or plain numbers.

        Vectors, norms, routers and position tables are fp32, kernels of a convolution over images fp16.
        """
        if not _quantised(weight):
            return FP16 if weight.kind == "conv" and len(weight.shape) > 3 else FP32
        row = weight.shape[-1]
        wanted = ggml_blocks()[self._output(row) if _is_output(weight) else self._inner(weight)]
        if wanted.divides(row):
            return wanted
        fallback = ggml_blocks().get(_FALLBACKS.get(wanted.name, ""))
        return fallback if fallback is not None and fallback.divides(row) else FP16

    def needs_fallback(self, weight: Weight) -> bool:
        """Return whether this is a matrix (or kernel) whose rows are no whole number of base blocks.

        A row is the last dimension, as GGUF stores it: 16 for a convolution kernel of 16 x 16.
        """
        return len(weight.shape) > 1 and not self._base.divides(weight.shape[-1])

    @property
    def _base(self) -> GgmlBlocks:
        return ggml_blocks()[self.base]

    def _output(self, row: int) -> str:
        """Return the type of the head, or of the embedding where it is also the head."""
        return "q8_0" if self.base == "q8_0" or not self._base.divides(row) else "q6_k"

    def _inner(self, weight: Weight) -> str:
        role = _role(weight)
        if weight.experts == 8:
            if role in ("attn_v", "attn_k"):
                return "q8_0"
            if role == "attn_output":
                return "q5_k" if self.careful_output else self.base
        chosen = next(
            (r.blocks for r in self.rules if r.role == role and _reaches(r.depth, weight)), self.base
        )
        # Models of 80 layers share each value head among 8 queries: llama.cpp spends more bits on values.
        if role == "attn_v" and weight.layers == 80 and chosen in ("q3_k", "q4_k"):
            return "q5_k"
        return chosen


def _quantised(weight: Weight) -> bool:
    return len(weight.shape) > 1 and weight.kind not in _UNQUANTISED


def _is_output(weight: Weight) -> bool:
    return weight.kind == "head" or (weight.kind == "embeddings" and weight.tied)


def _role(weight: Weight) -> Role:
    """Return the part a tensor plays in its layer, from its class and the end of its name."""
    path = weight.name.removesuffix(".weight")
    if weight.kind == "attention":
        last = path.rpartition(".")[2]
        return next((role for role, names in _ATTENTION_ROLES if re.fullmatch(names, last)), "other")
    return "ffn_down" if weight.kind in ("mlp", "experts") and _DOWN.fullmatch(path) else "other"


def _reaches(depth: Depth, weight: Weight) -> bool:
    layer, layers = weight.layer, weight.layers
    if depth == "more_bits":
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    first = {
        "all": layers,
        "first_eighth": layers // 8,
        "first_sixteenth": layers // 16,
        "first_4": 4,
        "first_2": 2,
    }
    return layer < first[depth]


def _mixes() -> dict[str, Mix]:
    more_bits = (Rule("attn_v", "more_bits", "q6_k"), Rule("ffn_down", "more_bits", "q6_k"))
    made = (
        *(Mix(base, base) for base in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q6_k")),
        Mix("q3_k_s", "q3_k", careful_output=True),
        Mix(
            "q3_k_m",
            "q3_k",
            (
                Rule("attn_v", "first_2", "q5_k"),
                Rule("attn_v", "all", "q4_k"),
                Rule("ffn_down", "first_sixteenth", "q5_k"),
                Rule("ffn_down", "all", "q4_k"),
                Rule("attn_output", "all", "q4_k"),
            ),
            careful_output=True,
        ),
        Mix(
            "q3_k_l",
            "q3_k",
            (
                Rule("attn_v", "all", "q5_k"),
                Rule("ffn_down", "all", "q5_k"),
                Rule("attn_output", "all", "q5_k"),
            ),
        ),
        Mix(
            "q4_k_s",
            "q4_k",
            (Rule("attn_v", "first_4", "q5_k"), Rule("ffn_down", "first_eighth", "q5_k")),
            careful_output=True,
        ),
        Mix("q4_k_m", "q4_k", more_bits, careful_output=True),
        Mix("q5_k_s", "q5_k"),
        Mix("q5_k_m", "q5_k", more_bits),
    )
    aliases = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
    by_name = {mix.name: mix for mix in made}
    return by_name | {alias: by_name[name] for alias, name in aliases.items()}


MIXES: Mapping[str, Mix] = MappingProxyType(_mixes())
