"""The parts of the page that are not charts."""

import pausejax
from pausejax.study import render
from pausejax.study.report import contents, markup
from pausejax.study.report.contents import Report
from pausejax.study.report.markup import Html, tag
from pausejax.study.table import Row

# Columns that are not always shown.
_DIFFERENCE, _FINETUNING = "difference, [95%]", "finetuning"
_DETECTABLE, _BOOTSTRAP = "MDE", "bootstrap [95%]"
_PAPER = "paper, 1B"


def header(it: Report) -> Html:
  """Returns the title, date, versions, counts, and caveats."""
  facts = {
    "made": it.made,
    "by": f"pausejax {pausejax.__version__}",
    "results by": ", ".join(f"pausejax {v}" for v in it.versions()) or "none",
    "runs": _num_runs(it),
    "results": f"{it.num_results():,}",
    "seeds": ", ".join(map(str, it.seeds())) or "none",
  }
  pairs = [
    tag("div", tag("dt", name), tag("dd", value))
    for name, value in facts.items()
  ]
  lines = [tag("li", line) for line in contents.advice(it)]
  return tag(
    "header",
    tag("h1", it.title),
    tag("dl", *pairs, class_="facts"),
    tag("ul", *lines, class_="advice"),
  )


def variants_table(it: Report, *, paper: bool) -> Html:
  """Returns the table of variants; a click on a heading sorts it."""
  if not it.rows:
    return tag("p", "Nothing was evaluated yet.", class_="missing")
  hidden = [] if paper and render.has_paper(it.rows) else [_PAPER]
  own = [_DIFFERENCE, _DETECTABLE, _BOOTSTRAP, _FINETUNING]
  hidden += [] if it.plan else own
  rows = [_cells(row) for row in it.rows]
  heads = [head for head in rows[0] if head not in hidden]
  body = [tag("tr", *(cells[head] for head in heads)) for cells in rows]
  first = it.rows[0].variant
  about = f"Differences are to {first}; bold where the interval excludes 0."
  about = about if it.plan else "Every condition that was evaluated."
  caption = about
  whole = tag(
    "table",
    tag("caption", tag("span", caption)),
    tag("thead", tag("tr", *map(_heading, heads))),
    tag("tbody", *body),
    class_="sortable",
  )
  notes = [tag("p", note) for note in render.table_notes(it.rows)]
  return markup.join(markup.scrolling(whole, "table of variants"), *notes)


def configs(it: Report) -> Html:
  """Returns the keys that differ between arms."""
  if not it.differences:
    few = "The configs of the runs differ in seed and task only."
    none = "No run has started yet."
    return tag("p", few if it.runs else none, class_="missing")
  arms = list(next(iter(it.differences.values())))
  body = [
    [tag("code", key), *(tag("code", row[arm]) for arm in arms)]
    for key, row in it.differences.items()
  ]
  caption = "Keys that differ; seed, task and data folder are left out."
  return markup.html_table(caption, ["key", *arms], body, class_="configs")


def commands(it: Report) -> Html:
  """Returns the commands that reproduce every run."""
  cells = it.plan.finetuning_cells() if it.plan else []
  other = {cell.id for cell in cells if cell.seeds != cells[0].seeds}
  shown = {n: lines for n, lines in it.commands.items() if n not in other}
  note = (
    "Runs with other seeds differ in the seed and the folder; report.json has "
    "every command."
    if len(shown) < len(it.commands)
    else "In this order."
  )
  items = [
    tag("details", tag("summary", name), tag("pre", "\n".join(lines)))
    for name, lines in shown.items()
  ]
  return markup.join(tag("p", note), *items)


def _num_runs(it: Report) -> str:
  if not it.plan:
    return f"{len(it.runs)}"
  cells = [*it.plan.pretraining_cells(), *it.plan.finetuning_cells()]
  done = sum(cell.is_done() for cell in cells)
  return f"{done} of {len(cells)} done, {len(it.runs)} started"


def _heading(text: str) -> Html:
  button = tag("button", text, tag("span", class_="arrow"), type="button")
  return tag("th", button, scope="col", aria_sort="none")


def _cells(row: Row) -> dict[str, Html]:
  """Returns heading -> cell; columns are sorted by data-value."""
  if row.seeds:
    score = render.plain_score(row)
    task, mean, m = f"{row.task}, {row.metric}", row.mean, row.num_pauses
  else:
    score, task, mean, m = tag("i", "missing"), row.task, None, None
  is_clear = row.interval is not None and row.interval[0] * row.interval[1] > 0
  difference = tag("b" if is_clear else "span", render.difference(row))
  return {
    "task": tag("td", task, data_value=row.task),
    "variant": tag("th", row.variant, scope="row", data_value=row.variant),
    "score, %": _number(score, mean),
    _DIFFERENCE: _number(difference, row.difference),
    _DETECTABLE: _number(render.detectable(row), row.detectable),
    _BOOTSTRAP: tag("td", render.signed_interval(row.bootstrap)),
    "GFLOP": _number(render.gflops(row), row.flops_per_example),
    "ms": _number(render.milliseconds(row), row.seconds_per_example),
    "M": _number("" if m is None else m, m),
    _FINETUNING: tag("td", row.finetuning, data_value=row.finetuning),
    "n": _number(render.format_size(row), row.n or None),
    "runs": _number(render.runs(row), len(row.seeds)),
    _PAPER: _number(render.published(row), row.paper and row.paper[0]),
  }


def _number(shown: object, value: float | None) -> Html:
  return tag("td", shown, data_value="" if value is None else value)
