"""Format names: `name[:key=value|flag[,...]]`, lower case, such as `mxfp8:block=8`, `int4:group=64,zero=int`."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache, partial

from tierline.errors import InputError
from tierline.formats.format import Format
from tierline.formats.ggml import ggml_blocks
from tierline.formats.mix import MIXES, Mix
from tierline.formats.options import Options, written_name
from tierline.formats.packed import Packed
from tierline.formats.plain import ALIASES, PLAIN

_Builder = Callable[[Options], Format]
_SCALE_BITS = {"fp16": 16, "bf16": 16, "fp32": 32}
_LONGEST_NAME = 100


@lru_cache(maxsize=1024)
def parse_format(text: str) -> Format:
    """Return the format of one tensor that `text` names.

    GGUF names mean block types here (`q8_0`); for llama.cpp's mixes, which choose per tensor, see
    `parse_weights`. Raises InputError for an unknown name or option, with what there is.
    """
    name, _, written = text.partition(":")
    name = ALIASES.get(name, name)
    options = Options(text, written)
    if name in ggml_blocks():
        options.finish()
        return ggml_blocks()[name]
    if name not in _BUILDERS:
        raise _unknown(text, name)
    built = _BUILDERS[name](options)
    options.finish()
    return built


def parse_weights(text: str) -> Format | Mix:
    """Return the mix that `text` names where llama.cpp has one (`q4_k_m`, `q8_0`), else the format."""
    return MIXES[text] if text in MIXES else parse_format(text)


def format_names() -> tuple[str, ...]:
    """Return every name that `parse_format` knows, without options."""
    return (*_BUILDERS, *ggml_blocks())


def _unknown(text: str, name: str) -> InputError:
    shown = repr(text[:_LONGEST_NAME])
    if name in MIXES:
        return InputError(f"format {shown} is a GGUF mix: it chooses per tensor, so only --weights takes it")
    near = get_close_matches(
        name[:_LONGEST_NAME].lower(), [*format_names(), *MIXES, *ALIASES], n=3, cutoff=0.5
    )
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(
        f"unknown format {shown}: {hint}There are {', '.join(_BUILDERS)}, GGUF's block types "
        f"{', '.join(ggml_blocks())}, and for --weights the mixes {', '.join(MIXES)}; "
        f"options follow a colon, as in int8:group=128"
    )


def _plain(name: str, options: Options) -> Format:  # noqa: ARG001 - every builder takes them
    return PLAIN[name]


def _scaled(name: str, bits: int, source: str, options: Options) -> Format:
    """Build int8, int4, int2 and fp8 with a scale per tensor, per row (`channel`) or per group."""
    per_tensor, per_channel, group = (
        options.flag("tensor"),
        options.flag("channel"),
        options.count("group", 0),
    )
    scale = options.choice("scale", tuple(_SCALE_BITS), "fp16")
    zeros = ("none",) if name.startswith("fp8") else ("none", "int", "float")
    zero = options.choice("zero", zeros, "none")
    if per_tensor + per_channel + bool(group) > 1:
        raise options.refuse("tensor, channel and group= exclude each other")
    if not (per_tensor or per_channel or group):
        if (scale, zero) != ("fp16", "none"):
            raise options.refuse("scale= and zero= need tensor, channel or group=")
        return Packed(name, source, 8 // bits, 1)
    scale_bits = _SCALE_BITS[scale] + {"none": 0, "int": bits, "float": _SCALE_BITS[scale]}[zero]
    return Packed(
        written_name(
            name,
            "tensor" * per_tensor + "channel" * per_channel + f"group={group}" * bool(group),
            f"scale={scale}" * (scale != "fp16"),
            f"zero={zero}" * (zero != "none"),
        ),
        source,
        8 // bits,
        1,
        group,
        group_bits=0 if per_tensor else scale_bits,
        tensor_bytes=-(-scale_bits // 8) if per_tensor else 0,
    )


def _mx(name: str, pack_elements: int, pack_bytes: int, options: Options) -> Format:
    """Build an OCP MX format: whole blocks with one E8M0 scale each."""
    block = options.count("block", 32)
    canonical = written_name(name, f"block={block}" * (block != 32))
    return Packed(canonical, "ocp-mx", pack_elements, pack_bytes, block, 8, padded=True)


_BUILDERS: dict[str, _Builder] = {
    **{name: partial(_plain, name) for name in PLAIN},
    "fp8": partial(_scaled, "fp8", 8, "ocp-fp8"),
    "fp8_e5m2": partial(_scaled, "fp8_e5m2", 8, "ocp-fp8"),
    "int8": partial(_scaled, "int8", 8, "integers"),
    "int4": partial(_scaled, "int4", 4, "integers"),
    "int2": partial(_scaled, "int2", 2, "integers"),
    "mxfp8": partial(_mx, "mxfp8", 1, 1),
    "mxfp6": partial(_mx, "mxfp6", 4, 3),
    "mxfp4": partial(_mx, "mxfp4", 2, 1),
    "mxint8": partial(_mx, "mxint8", 1, 1),
}
