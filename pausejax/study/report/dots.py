"""A dot plot as SVG: one row for each score, with its interval and levels."""

import dataclasses
from collections.abc import Sequence

from pausejax.study.report import chart
from pausejax.study.report.markup import Html, tag

_WIDTH, _ROW, _TOP, _BOTTOM, _LABEL, _RIGHT = 440, 40, 20, 40, 10, 14


@dataclasses.dataclass(frozen=True)
class Dot:
  """One row.

  Attributes:
    label: above the dot.
    style: number of its style, as in `chart.Series`.
    value: position of the dot.
    interval: (low, high) of its whisker, or None.
    title: tooltip.
  """

  label: str
  style: int
  value: float
  interval: tuple[float, float] | None
  title: str


def svg(
  dots: Sequence[Dot],
  *,
  title: str,
  x_label: str,
  levels: Sequence[tuple[float, str]] = (),
) -> Html:
  """Returns the drawing.

  Args:
    dots: the rows, from the top.
    title: description for screen readers.
    x_label: below the axis.
    levels: (x, label) of each dashed line from top to bottom.
  """
  values = [v for d in dots for v in (d.value, *(d.interval or ()))]
  values += [value for value, _ in levels]
  axis = chart.make_axis(values, _LABEL, _WIDTH - _RIGHT)
  height = _TOP + _ROW * len(dots) + _BOTTOM
  return tag(
    "svg",
    tag("title", title),
    *_scale(axis, height, x_label),
    *(_level(axis, height, *level) for level in levels),
    *(_dot(dot, axis, _TOP + _ROW * i) for i, dot in enumerate(dots)),
    viewBox=f"0 0 {_WIDTH} {height}",
    role="img",
    aria_label=title,
  )


def _scale(axis: chart.Axis, height: int, label: str) -> list[Html]:
  bottom = height - _BOTTOM
  parts = []
  for value in axis.ticks:
    at = chart.pixels(axis.at(value))
    parts += [
      tag("path", d=f"M{at} {_TOP}V{bottom}", class_="grid"),
      tag("text", chart.short(value), x=at, y=bottom + 16, class_="middle"),
    ]
  middle = chart.pixels((_LABEL + _WIDTH - _RIGHT) / 2)
  parts.append(tag("text", label, x=middle, y=height - 6, class_="middle name"))
  return parts


def _level(axis: chart.Axis, height: int, value: float, label: str) -> Html:
  at = axis.at(value)
  side = "end" if at > _WIDTH / 2 else ""
  return tag(
    "g",
    tag(
      "path", d=f"M{chart.pixels(at)} {_TOP}V{height - _BOTTOM}", class_="level"
    ),
    tag("text", label, x=chart.pixels(at), y=_TOP - 6, class_=f"{side} small"),
  )


def _dot(dot: Dot, axis: chart.Axis, top: int) -> Html:
  y = top + 28
  parts = [tag("title", dot.title)]
  if dot.interval:
    low, high = (chart.pixels(axis.at(v)) for v in dot.interval)
    parts.append(tag("path", d=f"M{low} {y}H{high}", class_="whisker"))
  parts.append(
    tag(
      "path",
      d=chart.marker(dot.style),
      class_="mark",
      transform=f"translate({chart.pixels(axis.at(dot.value))} {y})",
    )
  )
  label = tag("text", dot.label, x=_LABEL, y=top + 14, class_="name")
  return tag("g", label, *parts, class_=chart.look(dot.style))
