"""Runs the arms of configs/parity.py with three seeds and draws the chart.

  python -m benchmarks.parity --workdir=runs/parity --picture=docs/parity.svg

Each run is a separate `pausejax train` command, so this program may be stopped
and started again; complete runs are skipped. Prints the accuracy on held-out
strings at the end of each run.
"""

import argparse
import pathlib
import subprocess
import sys

from pausejax.runtime import metric_rows

ARMS = {
  "none": "no pauses",
  "hints": "no pauses, thresholds as targets on the bits",
  "pauses": "20 pauses",
  "both": "20 pauses, thresholds as their targets",
}
SEEDS = (0, 1, 2)
_STYLES = {
  "none": ("#8c564b", "2 3"),
  "hints": ("#7f7f7f", "7 3"),
  "pauses": ("#1f77b4", "1 0"),
  "both": ("#d95f02", "1 0"),
}
_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 300, 52, 14
_PLOT_WIDTH, _PLOT_HEIGHT = 560, 200

Curve = list[tuple[int, float]]


def main() -> None:
  """Runs the missing arms and draws the available curves."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--picture", type=pathlib.Path, required=True)
  options = parser.parse_args()
  curves = {}
  for seed in SEEDS:
    for arm in ARMS:
      workdir = options.workdir / f"{arm}-s{seed}"
      train(arm, seed, workdir)
      curves[arm, seed] = accuracies(workdir)
      step, last = curves[arm, seed][-1]
      print(f"{arm:8} seed {seed}: {last:.2f}% after {step} steps", flush=True)
  options.picture.write_text(picture(curves))
  print(f"the picture is {options.picture}")


def train(arm: str, seed: int, workdir: pathlib.Path) -> None:
  """Runs or resumes an arm."""
  words = ["train", f"--config=configs/parity.py:arm={arm}"]
  words += [f"--config.seed={seed}", f"--workdir={workdir}"]
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / "log.txt").open("a") as log:
    command = [sys.executable, "-m", "pausejax", *words]
    subprocess.run(command, check=True, stdout=log)


def accuracies(workdir: pathlib.Path) -> Curve:
  """Returns (step, percent right on held-out strings) of a run."""
  rows = metric_rows.read_rows(workdir / "metrics.jsonl")
  return [
    (r["step"], r["eval_parity20_accuracy"]) for r in rows if "eval_score" in r
  ]


def picture(curves: dict[tuple[str, int], Curve]) -> str:
  """Returns an SVG: accuracy against steps, one line per arm and seed."""
  last = max(step for curve in curves.values() for step, _ in curve)
  x = lambda step: _LEFT + _PLOT_WIDTH * step / last
  y = lambda percent: _TOP + _PLOT_HEIGHT * (1 - percent / 100)
  marks = [_grid(y(p), f"{p}%") for p in (0, 25, 50, 75, 100)]
  ends = range(0, last + 1, 500)
  marks += [_text(x(step), y(0) + 16, f"{step:,}", "middle") for step in ends]
  marks.append(_text(x(last / 2), y(0) + 32, "training steps", "middle"))
  for (arm, _), curve in curves.items():
    points = " ".join(f"{x(s):.1f},{y(p):.1f}" for s, p in curve)
    marks.append(f'<polyline points="{points}" fill="none" {_stroke(arm)}/>')
  for number, (arm, label) in enumerate(ARMS.items()):
    left = _LEFT + _PLOT_WIDTH / 2 * (number % 2)
    line_y = y(0) + 48 + 18 * (number // 2)
    marks.append(
      f'<line x1="{left}" x2="{left + 28}" y1="{line_y - 4}" '
      f'y2="{line_y - 4}" {_stroke(arm)}/>'
    )
    marks.append(_text(left + 34, line_y, label, "start"))
  body = "\n".join(marks)
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    'font-family="sans-serif" font-size="12" role="img">\n'
    "<title>Parity of 20 bits: accuracy on held-out strings</title>\n"
    f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n{body}\n'
    "</svg>\n"
  )


def _stroke(arm: str) -> str:
  color, dashes = _STYLES[arm]
  return f'stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"'


def _grid(y: float, label: str) -> str:
  right = _LEFT + _PLOT_WIDTH
  return (
    f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" '
    f'stroke="#dddddd"/>' + _text(_LEFT - 6, y + 4, label, "end")
  )


def _text(x: float, y: float, text: str, anchor: str) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">'
    f"{text}</text>"
  )


if __name__ == "__main__":
  main()
