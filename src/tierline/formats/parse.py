"""Format names: `name[:key=value|flag[,...]]`, lower case, such as `mxfp8:block=8` or `int4:group=64`."""

from difflib import get_close_matches
from functools import lru_cache

from tierline.errors import InputError
from tierline.formats.builders import BUILDERS
from tierline.formats.format import Format
from tierline.formats.ggml import ggml_blocks
from tierline.formats.mix import MIXES, Mix
from tierline.formats.options import Options
from tierline.formats.plain import ALIASES

_LONGEST_NAME = 100


@lru_cache(maxsize=1024)
def parse_format(text: str) -> Format:
    """Return the format of one tensor that `text` names.

    GGUF names mean block types here (`q8_0`); for llama.cpp's mixes, which choose per tensor, see
    `parse_weights`. Raises InputError for an unknown name or option, with what there is.
    """
    name, colon, written = text.partition(":")
    if colon and not written:
        raise InputError(f"format {text[:_LONGEST_NAME]!r}: no option follows the colon")
    name = ALIASES.get(name, name)
    options = Options(text, written)
    if name in ggml_blocks():
        options.finish()
        return ggml_blocks()[name]
    if name not in BUILDERS:
        raise _unknown(text, name)
    built = BUILDERS[name](options)
    options.finish()
    return built


def parse_weights(text: str) -> Format | Mix:
    """Return the mix that `text` names where llama.cpp has one (`q4_k_m`, `q8_0`), else the format."""
    return MIXES[text] if text in MIXES else parse_format(text)


def format_names() -> tuple[str, ...]:
    """Return every name that `parse_format` knows, without options."""
    return (*BUILDERS, *ggml_blocks())


def _unknown(text: str, name: str) -> InputError:
    shown = repr(text[:_LONGEST_NAME])
    if name in MIXES:
        return InputError(f"format {shown} is a GGUF mix: it chooses per tensor, so only --weights takes it")
    near = get_close_matches(
        name[:_LONGEST_NAME].lower(), [*format_names(), *MIXES, *ALIASES], n=3, cutoff=0.5
    )
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(
        f"unknown format {shown}: {hint}There are {', '.join(BUILDERS)}, GGUF's block types "
        f"{', '.join(ggml_blocks())}, and for --weights the mixes {', '.join(MIXES)}; "
        f"options follow a colon, as in int8:group=128"
    )
