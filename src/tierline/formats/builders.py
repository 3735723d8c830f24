"""Every format name that takes options, and how its format is built from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from tierline.formats.codebook import Codebook
from tierline.formats.format import Format
from tierline.formats.options import Options, written_name
from tierline.formats.packed import Packed, ceil_div
from tierline.formats.plain import PLAIN
from tierline.formats.words import Words

Builder = Callable[[Options], Format]

_SCALE_BITS = {"fp16": 16, "bf16": 16, "fp32": 32}
# Groups store fp16 as GPTQ and AWQ do; one scale per row or tensor is fp32 as in torchao and bitsandbytes.
_GROUP_SCALE, _WIDE_SCALE = "fp16", "fp32"


@dataclass(frozen=True, slots=True)
class _Scales:
    """Scales as the options give them: where, how many bits each with its zero point, and how written."""

    scope: str
    bits: int
    written: tuple[str, ...]


def _take_scales(options: Options, scope_default: str, scale_default: str, zero_bits: int) -> _Scales | None:
    """Take tensor, channel or group=, scale= and zero=; return None where there are no scales.

    `scale_default` may be empty: then groups have fp16 and wider scopes fp32. `zero_bits` is the size of an
    integer zero point, 0 if the format has none.
    """
    flags = [flag for flag in ("tensor", "channel") if options.flag(flag)]
    group = options.count("group", 0)
    if len(flags) + bool(group) > 1:
        raise options.refuse("tensor, channel and group= exclude each other")
    given = f"group={group}" if group else "".join(flags)
    scope = given or scope_default
    scale = options.choice("scale", tuple(_SCALE_BITS), "")
    zero = options.choice("zero", ("none", "int", "float"), "") if zero_bits else ""
    if not scope:
        if scale or zero:
            raise options.refuse("scale= and zero= need tensor, channel or group=")
        return None
    default = scale_default or (_GROUP_SCALE if group else _WIDE_SCALE)
    bits = _SCALE_BITS[scale or default]
    extra = {"": 0, "none": 0, "int": zero_bits, "float": bits}[zero]
    written = (
        scope if scope != scope_default else "",
        f"scale={scale}" if scale not in ("", default) else "",
        f"zero={zero}" if zero not in ("", "none") else "",
    )
    return _Scales(scope, bits + extra, written)


def _packed(name: str, source: str, pack_elements: int, scales: _Scales | None) -> Format:
    if scales is None:
        return Packed(name, source, pack_elements, 1)
    canonical = written_name(name, *scales.written)
    if scales.scope == "tensor":
        return Packed(canonical, source, pack_elements, 1, tensor_bytes=ceil_div(scales.bits, 8))
    group = 0 if scales.scope == "channel" else int(scales.scope.removeprefix("group="))
    return Packed(canonical, source, pack_elements, 1, group, scales.bits)


def _integer(name: str, bits: int, options: Options) -> Format:
    """Build integers without scales, or with one per tensor, per row (`channel`) or per group."""
    return _packed(name, "integers", 8 // bits, _take_scales(options, "", "", bits))


def _fp8(name: str, options: Options) -> Format:
    """Build 8-bit floats, with scales as integers have them but no zero points."""
    return _packed(name, "ocp-fp8", 1, _take_scales(options, "", "", 0))


def _ternary(options: Options) -> Format:
    """Build ternary weights, four to a byte as BitNet stores them or five (`dense`), with their scale."""
    if options.flag("dense"):
        scales = _take_scales(options, "tensor", "bf16", 0)
        return _packed(
            "ternary", "keras-ternary", 5, scales and replace(scales, written=("dense", *scales.written))
        )
    return _packed("ternary", "bitnet", 4, _take_scales(options, "tensor", "bf16", 0))


def _mx(name: str, pack_elements: int, pack_bytes: int, options: Options) -> Format:
    """Build an OCP MX format: whole blocks with one E8M0 scale each."""
    block = options.count("block", 32)
    canonical = written_name(name, f"block={block}" * (block != 32))
    return Packed(canonical, "ocp-mx", pack_elements, pack_bytes, block, 8, padded=True)


def _nvfp4(_: Options) -> Format:
    """Build NVFP4: whole blocks of 16 with an E4M3 scale each, and one fp32 scale per tensor."""
    return Packed("nvfp4", "nvfp4", 2, 1, 16, 8, padded=True, tensor_bytes=4)


def _gptq(options: Options) -> Format:
    """Build GPTQ: words of 32 bits packed along the input, a group index for each input."""
    bits = int(options.choice("bits", ("2", "3", "4", "8"), "4"))
    group = options.count("group", 128)
    canonical = written_name("gptq", f"bits={bits}" * (bits != 4), f"group={group}" * (group != 128))
    return Words(canonical, "gptq", bits, group, along_input=True, index_bytes=4)


def _awq(options: Options) -> Format:
    """Build AWQ: words of 32 bits packed along the output."""
    group = options.count("group", 128)
    canonical = written_name("awq", f"group={group}" * (group != 128))
    return Words(canonical, "awq", 4, group, along_input=False, index_bytes=0)


def _bitsandbytes(name: str, options: Options) -> Format:
    """Build bitsandbytes' 4-bit formats, with `double` quantisation of the scales."""
    double, block = options.flag("double"), options.count("block", 64)
    canonical = written_name(name, "double" * double, f"block={block}" * (block != 64))
    return Codebook(canonical, "bitsandbytes", block, double=double)


def _plain(name: str, _: Options) -> Format:
    return PLAIN[name]


BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        **{name: partial(_plain, name) for name in PLAIN},
        "fp8": partial(_fp8, "fp8"),
        "fp8_e5m2": partial(_fp8, "fp8_e5m2"),
        "int8": partial(_integer, "int8", 8),
        "int4": partial(_integer, "int4", 4),
        "int2": partial(_integer, "int2", 2),
        "ternary": _ternary,
        "mxfp8": partial(_mx, "mxfp8", 1, 1),
        "mxfp6": partial(_mx, "mxfp6", 4, 3),
        "mxfp4": partial(_mx, "mxfp4", 2, 1),
        "mxint8": partial(_mx, "mxint8", 1, 1),
        "nvfp4": _nvfp4,
        "gptq": _gptq,
        "awq": _awq,
        "nf4": partial(_bitsandbytes, "nf4"),
        "fp4": partial(_bitsandbytes, "fp4"),
    }
)
