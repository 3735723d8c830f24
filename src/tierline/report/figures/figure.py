"""What a figure shows, as data: two renderers draw it (`draw` into files, `interactive` for a page).

Values are in base units; an axis says by what they are divided to be shown. Names are as they are: each
renderer escapes them for its own format. Colours are hex, or the words `ink` and `faint`, which a page
turns into what its theme has.
"""

from dataclasses import dataclass, field
from typing import Literal

Texture = Literal["", "/", "\\", "x", ".", "-", "|", "+"]
Dash = Literal["solid", "dash", "longdash", "dot", "dashdot"]
Marker = Literal["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"]
SeriesKind = Literal["line", "points", "area"]
_SEPARABLE = 0.008


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis measures. Values are divided by `scale` to be shown in `unit`; `low` and `high` are limits
    in base units, None where the data sets them.
    """

    title: str
    unit: str = ""
    scale: float = 1.0
    log: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def label(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True, slots=True)
class Paint:
    """A colour and a texture, so that one of them is enough to tell parts apart."""

    colour: str
    texture: Texture = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar; `hover` says more about it in words."""

    name: str
    value: float
    paint: Paint
    hover: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """Segments in a row from 0; `label` says how much that is, `limit` what they may reach, if anything."""

    name: str
    segments: tuple[Segment, ...]
    limit: float | None = None
    label: str = ""

    @property
    def total(self) -> float:
        """The sum of the segments."""
        return sum(segment.value for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars on one scale, the first on top."""

    title: str
    axis: Axis
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A line, points, or an area that is stacked on the areas before it.

    `tags` are written beside the points and `hovers` shown for them, both one per point or empty. Points
    are `filled` or hollow. A series without `in_legend` is drawn but not named in the legend.
    """

    name: str
    kind: SeriesKind
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    colour: str
    dash: Dash = "solid"
    width: float = 1.4
    marker: Marker = "circle"
    filled: bool = True
    texture: Texture = ""
    hovers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    in_legend: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the chart at a value of one axis, with its name on it."""

    axis: Literal["x", "y"]
    at: float
    label: str
    dash: Dash = "dash"
    colour: str = "ink"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A line of the list that explains the tags of points."""

    marker: Marker
    text: str
    filled: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over two axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    key_title: str = ""
    key: tuple[KeyEntry, ...] = ()
    legend_title: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time on a lane, in seconds from the figure's 0."""

    start_s: float
    end_s: float
    activity: str
    hover: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """What one resource does."""

    name: str
    spans: tuple[Span, ...]

    @property
    def separable(self) -> bool:
        """Whether every span is long enough to be drawn with an edge around it that does not hide it."""
        last_s = max((s.end_s for s in self.spans), default=0.0)
        return all(s.end_s - s.start_s > _SEPARABLE * last_s for s in self.spans)


@dataclass(frozen=True, slots=True)
class LaneGroup:
    """Lanes of one origin (`simulated`, `measured`)."""

    name: str
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """Groups of lanes one below the other on one axis of time; `paints` has one for every activity in use."""

    title: str
    axis: Axis
    groups: tuple[LaneGroup, ...]
    paints: dict[str, Paint] = field(default_factory=dict)


Figure = Bars | Chart | Lanes
