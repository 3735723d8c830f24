"""Colours, markers and units that all figures share.

Colours are Okabe and Ito's, which remain apart for colour-blind readers and in print (M. Okabe, K. Ito:
Color Universal Design, 2008). Nothing is told by colour alone: textures, dashes, markers
or words tell it too.
"""

from tierline.report.figures.figure import Axis, Dash, Marker, Paint, Texture
from tierline.units import GIB, KIB, MIB, TIB

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY, YELLOW = "#cc79a7", "#e69f00", "#56b4e9", "#f0e442"
GREY, LIGHT = "#999999", "#cccccc"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[Dash, ...] = ("solid", "dash", "dashdot", "longdash", "dot")
MARKERS: tuple[Marker, ...] = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
STREAMED: Texture = "/"

KV = Paint(YELLOW)
ACTIVATIONS = Paint(GREY)
PROGRAM = Paint(LIGHT, "x")
RUNTIME = Paint(LIGHT, "-")
STAGING = Paint(LIGHT, ".")

_BYTES = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_BYTE_RATES = ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))
_FLOP_RATES = ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def colour(index: int) -> str:
    """Return the colour of the thing number `index`; beyond six they repeat, and textures must differ."""
    return COLOURS[index % len(COLOURS)]


def component_paint(index: int, *, streamed: bool = False) -> Paint:
    """Return what the component number `index` is painted with; hatched where it is streamed."""
    repeated: Texture = "\\" if index >= len(COLOURS) else ""
    return Paint(colour(index), STREAMED if streamed else repeated)


def bytes_axis(title: str, most: float, *, log: bool = False, high: float | None = None) -> Axis:
    """Return an axis of bytes in the unit in which `most` reads well."""
    return _axis(title, most, _BYTES, "B", log=log, high=high)


def rate_axis(title: str, most: float, *, log: bool = False) -> Axis:
    """Return an axis of bytes per second."""
    return _axis(title, most, _BYTE_RATES, "B/s", log=log)


def flop_rate_axis(title: str, most: float, *, log: bool = False) -> Axis:
    """Return an axis of FLOP per second."""
    return _axis(title, most, _FLOP_RATES, "FLOP/s", log=log)


def seconds_axis(title: str, most: float) -> Axis:
    """Return an axis of time."""
    return _axis(title, most, _SECONDS, "s")


def _axis(
    title: str,
    most: float,
    steps: tuple[tuple[float, str], ...],
    base: str,
    *,
    log: bool = False,
    high: float | None = None,
) -> Axis:
    scale, unit = next(((scale, unit) for scale, unit in steps if most >= scale), (1.0, base))
    return Axis(title, unit, scale, log, high=high)
