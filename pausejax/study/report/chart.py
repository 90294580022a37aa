"""A line chart as SVG; lines differ in color, dashes and markers."""

import dataclasses
import math
from collections.abc import Sequence

from pausejax.study.report.markup import Html, tag

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 40
_NUM_COLORS = 8
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2")
# Drawn around (0, 0).
_MARKERS = (
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  "M-3.6-3.6h7.2v7.2h-7.2z",
  "M0-4.8l4.6 8h-9.2z",
  "M0-5l4.4 5l-4.4 5l-4.4-5z",
  "M0 4.8l4.6-8h-9.2z",
  "M-1.4-4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",
  "M-5-2.4h10v4.8h-10z",
)
_SUFFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


@dataclasses.dataclass(frozen=True)
class Mark:
  """A marker on a chart.

  Attributes:
    x: in units of the axis.
    y: in units of the axis.
    title: tooltip.
    whisker: (low, high) of an interval around y, or None.
    ring: whether a ring is drawn around it.
  """

  x: float
  y: float
  title: str
  whisker: tuple[float, float] | None = None
  ring: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
  """A line with markers.

  Attributes:
    label: its name.
    style: number of its color, dashes and marker.
    line: (x, y) of the line.
    marks: its markers.
  """

  label: str
  style: int
  line: tuple[tuple[float, float], ...]
  marks: tuple[Mark, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
  """A chart without its legend.

  Attributes:
    title: description for screen readers.
    x_label: below the axis.
    y_label: above the axis.
    series: the lines.
    levels: (y, label) of each dashed horizontal line.
  """

  title: str
  x_label: str
  y_label: str
  series: Sequence[Series]
  levels: Sequence[tuple[float, str]] = ()

  def svg(self) -> Html:
    """Returns the drawing."""
    x, y = self._axes()
    drawn = [
      _series(s, x, y, offset)
      for s, offset in zip(self.series, self._offsets(), strict=True)
    ]
    return tag(
      "svg",
      tag("title", self.title),
      *_x_axis(x, self.x_label),
      *_y_axis(y, self.y_label),
      *(_level(y, *level) for level in self.levels),
      *drawn,
      viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
      role="img",
      aria_label=self.title,
    )

  def _offsets(self) -> list[float]:
    """Returns the offset of each line that puts whiskers side by side."""
    count = len(self.series)
    if not any(m.whisker for s in self.series for m in s.marks):
      return [0.0] * count
    step = min(2.5, 12 / count)
    return [step * (i - (count - 1) / 2) for i in range(count)]

  def _axes(self) -> tuple["Axis", "Axis"]:
    marks = [m for s in self.series for m in s.marks]
    line = [p for s in self.series for p in s.line]
    xs = [m.x for m in marks] + [x for x, _ in line]
    ys = [y for m in marks for y in (m.y, *(m.whisker or ()))]
    ys += [y for _, y in line] + [y for y, _ in self.levels]
    inside = (xs and max(xs) > min(xs)) or 0
    pad = 10 if inside else 0
    ends = _LEFT + pad, _WIDTH - _RIGHT - pad
    x = make_axis(xs, *ends, widen=not inside, least_step=1)
    return x, make_axis(ys, _HEIGHT - _BOTTOM, _TOP, widen=True)


def legend(series: Sequence[Series]) -> Html:
  """Returns the legend, one item per style."""
  unique = {s.style: s for s in series}.values()
  items = [tag("li", _swatch(s.style), s.label) for s in unique]
  return tag("ul", *items, class_="legend")


@dataclasses.dataclass(frozen=True)
class Axis:
  """Maps [low, high] to pixels [start, stop]; ticks are inside [low, high]."""

  low: float
  high: float
  start: float
  stop: float
  ticks: tuple[float, ...]

  def at(self, value: float) -> float:
    """Returns the pixel of a value."""
    share = (value - self.low) / (self.high - self.low)
    return self.start + share * (self.stop - self.start)


def ticks(
  low: float, high: float, most: int = 8, *, least_step: float = 0.0
) -> list[float]:
  """Returns at most `most` round numbers that lie in [low, high].

  Args:
    low: lower end of the axis.
    high: upper end of the axis.
    most: maximum number of ticks.
    least_step: minimum distance of two ticks, such as 1 for counts.
  """
  rough = max((high - low) / (most - 1), least_step)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
  """Returns a number for an axis: 3e-4, 0.5, 250, 1.5M."""
  if 0 < abs(value) < 0.01:
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
  power = 0
  while abs(value) >= 1000 and power < len(_SUFFIXES) - 1:
    value, power = value / 1000, power + 1
  return f"{value:.4g}{_SUFFIXES[power]}"


def make_axis(
  values: Sequence[float],
  start: float,
  stop: float,
  *,
  widen: bool = True,
  least_step: float = 0.0,
) -> Axis:
  """Returns the axis of values.

  Args:
    values: values that it must show.
    start: pixel of the lower end.
    stop: pixel of the upper end.
    widen: add a margin at both ends.
    least_step: minimum distance of two ticks, such as 1 for counts.
  """
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  margin = 0.06 * (high - low) or abs(low) * 0.1 or 0.5
  if widen:
    low, high = low - margin, high + margin
  marks = ticks(low, high, least_step=least_step)
  return Axis(low, high, start, stop, tuple(marks))


def _x_axis(axis: Axis, label: str) -> list[Html]:
  bottom = _HEIGHT - _BOTTOM
  middle = (_LEFT + _WIDTH - _RIGHT) / 2
  parts = [tag("path", d=f"M{_LEFT} {bottom}H{_WIDTH - _RIGHT}", class_="axis")]
  for value in axis.ticks:
    at = pixels(axis.at(value))
    parts.append(tag("path", d=f"M{at} {bottom}v4", class_="axis"))
    parts.append(
      tag("text", short(value), x=at, y=bottom + 17, class_="middle")
    )
  name = tag(
    "text", label, x=pixels(middle), y=_HEIGHT - 6, class_="middle name"
  )
  return [*parts, name]


def _y_axis(axis: Axis, label: str) -> list[Html]:
  parts = []
  for value in axis.ticks:
    at = axis.at(value)
    line = f"M{_LEFT} {pixels(at)}H{_WIDTH - _RIGHT}"
    parts.append(tag("path", d=line, class_="grid"))
    parts.append(
      tag("text", short(value), x=_LEFT - 6, y=pixels(at + 4), class_="end")
    )
  return [*parts, tag("text", label, x=4, y=13, class_="name")]


def _level(y: Axis, value: float, label: str) -> Html:
  """Returns a dashed horizontal line with a label at its right end."""
  at = y.at(value)
  right = _WIDTH - _RIGHT
  return tag(
    "g",
    tag("path", d=f"M{_LEFT} {pixels(at)}H{right}", class_="level"),
    tag("text", label, x=right, y=pixels(at - 4), class_="end small"),
  )


def _series(series: Series, x: Axis, y: Axis, offset: float) -> Html:
  """Returns a line and its markers, shifted by `offset` pixels."""
  points = " ".join(
    f"{pixels(x.at(a))},{pixels(y.at(b))}" for a, b in series.line
  )
  line = tag(
    "polyline",
    tag("title", series.label),
    points=points,
    class_="line",
    stroke_dasharray=_DASHES[series.style % len(_DASHES)] or None,
  )
  marks = [_mark(m, series.style, x, y) for m in series.marks]
  return tag(
    "g",
    *([line] if points else []),
    *marks,
    class_=look(series.style),
    transform=f"translate({pixels(offset)} 0)" if offset else None,
  )


def _mark(mark: Mark, style: int, x: Axis, y: Axis) -> Html:
  at_x, at_y = x.at(mark.x), y.at(mark.y)
  parts = [tag("title", mark.title)]
  if mark.whisker:
    bottom, top = map(y.at, mark.whisker)
    whisker = f"M0 {pixels(top - at_y)}V{pixels(bottom - at_y)}"
    parts.append(tag("path", d=whisker, class_="whisker"))
  if mark.ring:
    parts.append(tag("circle", r=8.5, class_="ring"))
  parts.append(tag("path", d=marker(style), class_="mark"))
  return tag("g", *parts, transform=f"translate({pixels(at_x)} {pixels(at_y)})")


def _swatch(style: int) -> Html:
  dash = _DASHES[style % len(_DASHES)] or None
  return tag(
    "svg",
    tag("path", d="M1 8H41", class_="line", stroke_dasharray=dash),
    tag(
      "path",
      d=marker(style),
      class_="mark",
      transform="translate(21 8)",
    ),
    viewBox="0 0 42 16",
    class_=f"swatch {look(style)}",
    aria_hidden="true",
  )


def marker(style: int) -> str:
  """Returns the path of a style's marker, drawn around (0, 0)."""
  return _MARKERS[style % len(_MARKERS)]


def look(style: int) -> str:
  """Returns the CSS class of a style's color."""
  return f"look{style % _NUM_COLORS}"


def pixels(value: float) -> str:
  """Returns a coordinate to a tenth of a pixel."""
  return f"{value:.1f}".removesuffix(".0")
