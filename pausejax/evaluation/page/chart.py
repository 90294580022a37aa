"""A line chart as SVG; lines differ by colour, dashes and markers at once."""

import dataclasses
import math
from collections.abc import Sequence

from pausejax.evaluation.page.markup import Html, tag

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 40
_NUM_COLOURS = 8
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
    x: where, in the units of the axis.
    y: likewise.
    title: what a pointer that rests there is told.
    spread: whiskers reach this far up and down.
    ring: whether a ring is drawn around it.
  """

  x: float
  y: float
  title: str
  spread: float = 0.0
  ring: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
  """A line with markers.

  Attributes:
    label: its name.
    style: number of its look; equal numbers look the same.
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
    title: what it shows, for who cannot see it.
    x_label: below the axis.
    y_label: above the axis.
    series: the lines.
    level: (y, label) of a dashed line across, or None.
  """

  title: str
  x_label: str
  y_label: str
  series: Sequence[Series]
  level: tuple[float, str] | None = None

  def svg(self) -> Html:
    """Returns the drawing."""
    x, y = self._axes()
    drawn = [
      _series(s, x, y, aside)
      for s, aside in zip(self.series, self._asides(), strict=True)
    ]
    return tag(
      "svg",
      tag("title", self.title),
      *_x_axis(x, self.x_label),
      *_y_axis(y, self.y_label),
      *(self._level(y) if self.level else ()),
      *drawn,
      viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
      role="img",
      aria_label=self.title,
    )

  def _asides(self) -> list[float]:
    """Returns how far each line moves, so that whiskers stand side by side."""
    count = len(self.series)
    if not any(m.spread for s in self.series for m in s.marks):
      return [0.0] * count
    step = min(2.5, 12 / count)
    return [step * (i - (count - 1) / 2) for i in range(count)]

  def _axes(self) -> tuple["_Axis", "_Axis"]:
    marks = [m for s in self.series for m in s.marks]
    line = [p for s in self.series for p in s.line]
    xs = [m.x for m in marks] + [x for x, _ in line]
    ys = [m.y + d for m in marks for d in (-m.spread, m.spread)]
    ys += [y for _, y in line] + ([self.level[0]] if self.level else [])
    inside = (xs and max(xs) > min(xs)) or 0
    pad = 10 if inside else 0
    x = _axis(xs, _LEFT + pad, _WIDTH - _RIGHT - pad, widen=not inside)
    return x, _axis(ys, _HEIGHT - _BOTTOM, _TOP, widen=True)

  def _level(self, y: "_Axis") -> list[Html]:
    assert self.level
    value, label = self.level
    at = _n(y.at(value))
    line = f"M{_LEFT} {at}H{_WIDTH - _RIGHT}"
    return [tag("path", tag("title", label), d=line, class_="level")]


def legend(series: Sequence[Series]) -> Html:
  """Returns what each look stands for, once each."""
  unique = {s.style: s for s in series}.values()
  items = [tag("li", _swatch(s.style), s.label) for s in unique]
  return tag("ul", *items, class_="legend")


@dataclasses.dataclass(frozen=True)
class _Axis:
  """Maps [low, high] to pixels [start, stop]."""

  low: float
  high: float
  start: float
  stop: float
  ticks: tuple[float, ...]

  def at(self, value: float) -> float:
    share = (value - self.low) / (self.high - self.low)
    return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, most: int = 8) -> list[float]:
  """Returns at most `most` round numbers that lie in [low, high]."""
  rough = (high - low) / (most - 1)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
  """Returns a number for an axis: 0.5, 250, 1.5M."""
  power = 0
  while abs(value) >= 1000 and power < len(_SUFFIXES) - 1:
    value, power = value / 1000, power + 1
  return f"{value:.4g}{_SUFFIXES[power]}"


def _axis(values: Sequence[float], start, stop, *, widen: bool) -> _Axis:
  """Returns the axis of values; `widen` leaves some room at both ends."""
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  room = 0.06 * (high - low) or max(abs(low) * 0.1, 0.5)
  if widen:
    low, high = low - room, high + room
  return _Axis(low, high, start, stop, tuple(ticks(low, high)))


def _x_axis(axis: _Axis, label: str) -> list[Html]:
  bottom = _HEIGHT - _BOTTOM
  middle = (_LEFT + _WIDTH - _RIGHT) / 2
  parts = [tag("path", d=f"M{_LEFT} {bottom}H{_WIDTH - _RIGHT}", class_="axis")]
  for value in axis.ticks:
    at = _n(axis.at(value))
    parts.append(tag("path", d=f"M{at} {bottom}v4", class_="axis"))
    parts.append(
      tag("text", short(value), x=at, y=bottom + 17, class_="middle")
    )
  name = tag("text", label, x=_n(middle), y=_HEIGHT - 6, class_="middle name")
  return [*parts, name]


def _y_axis(axis: _Axis, label: str) -> list[Html]:
  parts = []
  for value in axis.ticks:
    at = axis.at(value)
    line = f"M{_LEFT} {_n(at)}H{_WIDTH - _RIGHT}"
    parts.append(tag("path", d=line, class_="grid"))
    parts.append(
      tag("text", short(value), x=_LEFT - 6, y=_n(at + 4), class_="end")
    )
  return [*parts, tag("text", label, x=4, y=13, class_="name")]


def _series(series: Series, x: _Axis, y: _Axis, aside: float) -> Html:
  """Returns a line and its markers, moved by `aside` pixels."""
  points = " ".join(f"{_n(x.at(a))},{_n(y.at(b))}" for a, b in series.line)
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
    class_=_look(series.style),
    transform=f"translate({_n(aside)} 0)" if aside else None,
  )


def _mark(mark: Mark, style: int, x: _Axis, y: _Axis) -> Html:
  at_x, at_y = x.at(mark.x), y.at(mark.y)
  parts = [tag("title", mark.title)]
  if mark.spread:
    top, bottom = y.at(mark.y + mark.spread), y.at(mark.y - mark.spread)
    whisker = f"M0 {_n(top - at_y)}V{_n(bottom - at_y)}"
    parts.append(tag("path", d=whisker, class_="whisker"))
  if mark.ring:
    parts.append(tag("circle", r=8.5, class_="ring"))
  parts.append(tag("path", d=_MARKERS[style % len(_MARKERS)], class_="mark"))
  return tag("g", *parts, transform=f"translate({_n(at_x)} {_n(at_y)})")


def _swatch(style: int) -> Html:
  dash = _DASHES[style % len(_DASHES)] or None
  return tag(
    "svg",
    tag("path", d="M1 8H41", class_="line", stroke_dasharray=dash),
    tag(
      "path",
      d=_MARKERS[style % len(_MARKERS)],
      class_="mark",
      transform="translate(21 8)",
    ),
    viewBox="0 0 42 16",
    class_=f"swatch {_look(style)}",
    aria_hidden="true",
  )


def _look(style: int) -> str:
  return f"look{style % _NUM_COLOURS}"


def _n(value: float) -> str:
  """Returns a coordinate to a tenth of a pixel."""
  return f"{value:.1f}".removesuffix(".0")
