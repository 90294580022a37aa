"""Examples on which variants disagree, with their pauses drawn."""

from typing import Any

from pausejax.prompt_pauses import TOKEN, PromptPauses
from pausejax.study.report import disagreements, markup
from pausejax.study.report.contents import Report
from pausejax.study.report.disagreements import Case, Contender, Disagreement
from pausejax.study.report.markup import Html, tag

_LONGEST_PROMPT, _LONGEST_ANSWER = 700, 400


def cases_section(report: Report) -> Html:
  """Returns the examples, task by task."""
  if not report.disagreements:
    missing = "This needs two variants with results on the same task."
    return tag("p", missing, class_="missing")
  note = (
    f"One seed of each variant. An answer is right if its primary metric is at "
    f"least {disagreements.RIGHT:g}. Examples are the first of the data set, "
    "as many gained as lost where possible."
  )
  tasks = [_task(*item) for item in report.disagreements.items()]
  return markup.join(tag("p", note), *tasks)


def _task(task: str, disagreement: Disagreement) -> Html:
  first = disagreement.contenders[0].label
  rows = zip(
    disagreement.contenders,
    disagreement.num_gained,
    disagreement.num_lost,
    strict=True,
  )
  body = [[c.label, f"{gained:,}", f"{lost:,}"] for c, gained, lost in rows]
  table = markup.html_table(
    f"{task}: against {first}, of {disagreement.n:,} examples",
    ["variant", "gained", "lost"],
    body[1:],
  )
  cases = [_case(case, disagreement) for case in disagreement.cases]
  if any(case.prompt is None for case in disagreement.cases):
    note = "The prompts are not available: no such data on this machine."
    cases.insert(0, tag("p", note, class_="missing"))
  none = tag("p", "All are right and wrong on the same examples.")
  count = len(disagreement.cases)
  summary = tag("summary", f"{count} example{'s' * (count != 1)}")
  folded = tag("details", summary, *cases)
  return tag("div", tag("h3", task), table, folded if cases else none)


def _case(case: Case, disagreement: Disagreement) -> Html:
  answers = [
    _answer(contender, row, row["values"][disagreement.metric])
    for contender, row in zip(disagreement.contenders, case.rows, strict=True)
  ]
  return tag(
    "article",
    tag("h4", "example ", tag("code", case.id)),
    tag("pre", _tail(case.prompt)) if case.prompt is not None else "",
    tag("p", tag("b", "wanted: "), _wanted(case.rows[0])),
    tag("dl", *answers),
  )


def _answer(contender: Contender, row: dict[str, Any], value: float) -> Html:
  verdict = "right" if value >= disagreements.RIGHT else "wrong"
  shown = verdict if value in (0.0, 1.0) else f"{verdict}, {value:.2f}"
  text = row["prediction"]
  if len(text) > _LONGEST_ANSWER:
    text = text[:_LONGEST_ANSWER] + " ..."
  label = tag("dt", contender.label, " ", tag("span", shown, class_=verdict))
  return tag("div", label, tag("dd", *_chips(contender.result), tag("q", text)))


def _chips(result: dict) -> list[Html]:
  """Returns the pauses of a condition as a chip with their number."""
  pauses = PromptPauses.from_saved(result)
  m = pauses.num_pauses
  if not m:
    return []
  name = "[pause]" if pauses.token == TOKEN else repr(pauses.token)
  return [
    tag(
      "span",
      f"{name} \u00d7 {m}",
      class_="chip",
      title=f"{m} of them {pauses.place}",
    ),
    Html(" "),
  ]


def _wanted(row: dict[str, Any]) -> Html:
  if "options" in row:
    return tag("q", row["options"][row["label"]])
  several = [tag("q", r) for r in dict.fromkeys(row["references"])]
  return markup.join(*(markup.join(q, " ") for q in several[:5]))


def _tail(text: str) -> str:
  if len(text) <= _LONGEST_PROMPT:
    return text
  return "... " + text[-_LONGEST_PROMPT:]
