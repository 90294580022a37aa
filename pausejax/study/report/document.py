"""The report as an HTML page and as Markdown."""

import base64
import hashlib
import string
from collections.abc import Sequence
from importlib import resources

from pausejax.study import render
from pausejax.study.report import (
  cases,
  contents,
  figures,
  grid,
  loss_tables,
  probes,
  sections,
)
from pausejax.study.report.contents import Report
from pausejax.study.report.markup import Html, join, tag

# The only script that runs is the one with this digest. Styles may be inline:
# they hold the colors of the lines and the shares of the grid.
_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; "
  "img-src data:; base-uri 'none'; form-action 'none'"
)


def report_page(it: Report, *, paper: bool) -> str:
  """Returns one self-contained HTML file."""
  variants = join(
    sections.variants_table(it, paper=paper),
    grid.grid_section(it.plan, it.rows),
  )
  held_out = join(loss_tables.held_out(it), loss_tables.text_scores(it))
  training = join(
    loss_tables.last_steps(it),
    figures.training_charts(it),
    loss_tables.machines(it),
  )
  parts = [
    ("variants", "Variants", variants),
    ("pauses", "Pauses at inference", figures.sweeps(it)),
    ("metrics", "Every metric", figures.metrics(it)),
    ("probes", "What the pauses do", probes.probes_section(it)),
    ("held-out", "Held-out losses", held_out),
    ("losses", "Losses", figures.curves(it)),
    ("training", "Training", training),
    ("examples", "Where variants disagree", cases.cases_section(it)),
    ("configs", "Differences of the configs", sections.configs(it)),
    ("commands", "Commands to reproduce", sections.commands(it)),
  ]
  links = [tag("a", title, href=f"#{name}") for name, title, _ in parts]
  bodies = [
    tag("section", tag("h2", title), body, id=name)
    for name, title, body in parts
  ]
  script = _asset("sort.js")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
  return string.Template(_asset("page.html")).substitute(
    policy=_POLICY.format(digest.decode()),
    title=join(it.title),
    style=_asset("style.css"),
    script=script,
    header=sections.header(it),
    nav=tag("nav", *links, aria_label="Sections"),
    main=tag("main", *bodies),
  )


def report_markdown(it: Report, *, paper: bool) -> str:
  """Returns the table, the sweeps and the state of each run."""
  text = render.markdown_text
  head = [f"# {text(it.title)}", "", f"{it.made}", ""]
  head += [f"- {text(line)}" for line in contents.advice(it)]
  parts = ["\n".join(head) + "\n", render.table_markdown(it.rows, paper=paper)]
  for task, lines in it.sweeps.items():
    title = f"## {text(task)}: {text(lines[0].metric)} by pauses at inference"
    cells = [
      [
        line.label,
        str(p.num_pauses),
        figures.spelled(p.primary, len(p.seeds)),
        str(len(p.seeds)),
      ]
      for line in lines
      for p in line.points
    ]
    parts.append(f"{title}\n\n{_table(['arm', 'M', 'score', 'runs'], cells)}")
  if probed := probes.probe_rows(it):
    table = _table(probes.HEAD, probed)
    parts.append(f"## What the pauses do\n\n{table}")
  runs = [
    [c.run.id, f"{c.loss[-1].x['steps']:,}", f"{c.loss[-1].loss:.3f}"]
    for c in it.curves
    if c.loss
  ]
  if runs:
    parts.append(f"## Runs\n\n{_table(['run', 'steps', 'loss'], runs)}")
  return "\n".join(parts)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  rows = [head, ["---"] * len(head), *body]
  cells = [[render.markdown_text(cell) for cell in row] for row in rows]
  return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _asset(name: str) -> Html:
  return Html((resources.files(__package__) / name).read_text("utf-8"))
