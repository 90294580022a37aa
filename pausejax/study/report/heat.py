"""A grid of values as SVG: the stronger the color, the larger the value."""

import math
from collections.abc import Sequence

from pausejax.study.report import chart
from pausejax.study.report.markup import Html, tag

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 22, 52, 14, 26, 40
_MOST_LABELS = 12  # Of columns.
_POSITIVE, _NEGATIVE = 0, 1  # Styles.


def heat_map(
  values: Sequence[Sequence[float]],
  *,
  title: str,
  x_label: str,
  y_label: str,
  rows: Sequence[str],
  columns: Sequence[str],
  most: float,
  notes: Sequence[Sequence[str]] = (),
) -> Html:
  """Returns the drawing.

  Args:
    values: [row][column], the first row at the bottom.
    title: description for screen readers.
    x_label: below the columns.
    y_label: above the rows.
    rows: the label of each row.
    columns: the label of each column.
    most: the absolute value with the strongest color.
    notes: [row][column], added to the tooltips.
  """
  width = (_WIDTH - _LEFT - _RIGHT) / len(columns)
  height = _TOP + _ROW * len(rows) + _BOTTOM
  parts = [tag("text", y_label, x=4, y=13, class_="name")]
  for i, row in enumerate(values):
    top = height - _BOTTOM - _ROW * (i + 1)
    parts.append(tag("text", rows[i], x=_LEFT - 6, y=top + 15, class_="end"))
    for j, value in enumerate(row):
      note = f"; {notes[i][j]}" if notes else ""
      text = f"{rows[i]}, {columns[j]}: {value:.2f}{note}"
      parts.append(_cell(_LEFT + width * j, top, width, value / most, text))
  step = math.ceil(len(columns) / _MOST_LABELS)
  for j in range(0, len(columns), step):
    at = chart.pixels(_LEFT + width * (j + 0.5))
    label = tag("text", columns[j], x=at, y=height - 24, class_="middle small")
    parts.append(label)
  middle = chart.pixels((_LEFT + _WIDTH - _RIGHT) / 2)
  parts.append(
    tag("text", x_label, x=middle, y=height - 6, class_="middle name")
  )
  return tag(
    "svg",
    tag("title", title),
    *parts,
    viewBox=f"0 0 {_WIDTH} {height}",
    role="img",
    aria_label=title,
  )


def _cell(left: float, top: float, width: float, share: float, text: str):
  style = _NEGATIVE if share < 0 else _POSITIVE
  return tag(
    "rect",
    tag("title", text),
    x=chart.pixels(left),
    y=top,
    width=chart.pixels(width - 1),
    height=_ROW - 1,
    class_=f"cell {chart.look(style)}",
    fill_opacity=f"{0.06 + 0.94 * min(1.0, abs(share)):.3f}",
  )
