"""The forms that `tierline pack` gives to matrices: weights as a kernel takes them, no longer as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SCALE_BYTES = 2  # bf16, of a scale and of a zero point
INT8, INT8_GROUP = "int8:channel,scale=bf16", "int8:group=128,scale=bf16"
INT4 = "int4:group=32,scale=bf16,zero=float"
MXFP8, MXFP4 = "mxfp8", "mxfp4"


@dataclass(frozen=True, slots=True)
class Form:
    """What a kernel of one `kind` asks of a matrix: that its rows and columns are multiples of these.

    Outside of it torch's kernels read out of bounds or crash. `group` elements of a row share a scale, 0 if
    all of them. Whole panels have a multiple of `panel_rows`: blocks of int4 rows, and multiples of 64 bytes,
    since the int8 kernel crashes on weights that do not start at one of 16. `by_row` is whether a row can be
    read by itself; blocks are whole rows one after another.
    """

    kind: Literal["int8", "int8 groups", "int4", "blocks"]
    group: int
    rows: int
    columns: int
    panel_rows: int
    by_row: bool


def _int4(group: int) -> Form:
    return Form("int4", group, 16, group, 64, by_row=False)


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        INT8: Form("int8", 0, 1, 16, 32, by_row=True),
        INT8_GROUP: Form("int8 groups", 128, 1, 128, 32, by_row=False),
        **{INT4.replace("32", str(group)): _int4(group) for group in (32, 64, 128)},
        MXFP8: Form("blocks", 32, 1, 32, 1, by_row=True),
        MXFP4: Form("blocks", 32, 1, 32, 1, by_row=True),
    }
)


def is_packed(format_name: str) -> bool:
    """Return whether the format is one of these forms."""
    return format_name in FORMS


def is_panelled(format_name: str) -> bool:
    """Return whether the format is one whose rows lie together in panels, as torch's kernels take them."""
    return is_packed(format_name) and FORMS[format_name].kind != "blocks"


def fits(format_name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a kernel can multiply with a tensor of `shape` in this form."""
    form = FORMS[format_name]
    return len(shape) == 2 and min(shape) > 0 and shape[0] % form.rows == 0 and shape[1] % form.columns == 0
