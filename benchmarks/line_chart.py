"""An SVG of panels side by side, each with the lines of several arms."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7f7f7f")
_DASHES = ("1 0", "1 0", "6 3", "2 3")
_LEFT, _TOP, _WIDTH, _HEIGHT = 64, 30, 270, 200  # Of the plot in a panel.
_PANEL_WIDTH, _PANEL_HEIGHT, _LINE_HEIGHT = 360, 272, 18

Line = tuple[str, Sequence[tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Panel:
  """The lines of one chart.

  Attributes:
    title: stands above it.
    x_title: stands below it.
    lines: (arm, points (x, y)) of each run.
    names: arm -> its text in the legend.
    has_log_scale: whether y is logarithmic, from a power of ten to another;
      otherwise it is in percent.
  """

  title: str
  x_title: str
  lines: Sequence[Line]
  names: Mapping[str, str]
  has_log_scale: bool = False

  def ticks(self) -> list[float]:
    """Returns the values that have a horizontal line, ascending."""
    if not self.has_log_scale:
      return [0, 25, 50, 75, 100]
    values = [math.log10(y) for _, points in self.lines for _, y in points]
    low, high = math.floor(min(values)), math.ceil(max(values))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]

  def height(self, value: float) -> float:
    """Returns the place of a value, 0 at the bottom and 1 at the top."""
    scale = math.log10 if self.has_log_scale else float
    low, *_, high = map(scale, self.ticks())
    return (scale(value) - low) / (high - low)


def picture(title: str, panels: Sequence[Panel]) -> str:
  """Returns the SVG."""
  rows = max(len(panel.names) for panel in panels)
  width = _PANEL_WIDTH * len(panels)
  height = _PANEL_HEIGHT + _LINE_HEIGHT * rows
  body = "\n".join(
    f'<g transform="translate({_PANEL_WIDTH * number} 0)">\n'
    f"{_panel(panel)}\n</g>"
    for number, panel in enumerate(panels)
  )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    f'font-family="sans-serif" font-size="12" role="img">\n'
    f"<title>{title}</title>\n"
    f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
    f"{body}\n</svg>\n"
  )


def _panel(panel: Panel) -> str:
  xs = sorted({x for _, points in panel.lines for x, _ in points})
  place = lambda x: _LEFT + _WIDTH * (x - xs[0]) / (xs[-1] - xs[0])
  level = lambda y: _TOP + _HEIGHT * (1 - panel.height(y))
  bottom = _TOP + _HEIGHT
  marks = [_text(_LEFT, _TOP - 14, panel.title, "start")]
  for tick in panel.ticks():
    marks.append(
      f'<path d="M{_LEFT} {level(tick):.1f}h{_WIDTH}" stroke="#dddddd"/>'
      + _text(_LEFT - 6, level(tick) + 4, f"{tick:,.0f}", "end")
    )
  marks += [_text(place(x), bottom + 16, f"{x:g}", "middle") for x in xs]
  marks.append(_text(_LEFT + _WIDTH / 2, bottom + 32, panel.x_title, "middle"))
  for arm, points in panel.lines:
    path = " ".join(f"{place(x):.1f},{level(y):.1f}" for x, y in points)
    style = _style(panel, arm)
    marks.append(f'<polyline points="{path}" fill="none" {style}/>')
  for row, (arm, name) in enumerate(panel.names.items()):
    y = bottom + 50 + _LINE_HEIGHT * row
    marks.append(f'<path d="M{_LEFT} {y - 4}h28" {_style(panel, arm)}/>')
    marks.append(_text(_LEFT + 36, y, name, "start"))
  return "\n".join(marks)


def _style(panel: Panel, arm: str) -> str:
  number = list(panel.names).index(arm)
  return (
    f'stroke="{_COLORS[number]}" stroke-width="1.5" '
    f'stroke-dasharray="{_DASHES[number]}"'
  )


def _text(x: float, y: float, text: str, anchor: str) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">'
    f"{text}</text>"
  )
