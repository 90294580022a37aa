"""The report of `pausejax inspect` as one self-contained HTML page.

All text is escaped. Colors repeat what marks or words also show.
"""

import html

from pausejax.inspection import sequences

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em;
  padding: 0 1em; color: #1a1a1a; background: #fff }
table { border-collapse: collapse } td, th { padding: .15em .8em .15em 0;
  text-align: left; vertical-align: top }
.row { border: 1px solid #bbb; margin: 1em 0; padding: .5em 1em }
.ids { font: 13px/1.2 ui-monospace, monospace; display: flex; flex-wrap: wrap;
  gap: .3em .15em }
.id { display: inline-block; text-align: center; padding: 0 .2em;
  border-bottom: 2px solid transparent }
.id small { display: block; min-height: 1.1em; color: #444 }
.prefix { background: #eef3fa } .pause { background: #333; color: #fff }
.pause small { color: #fff } .counts { border-bottom-color: #0a7a3b }
.bad { font-weight: bold; color: #b00020 }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616 }
  .prefix { background: #263243 } .pause { background: #ddd; color: #111 }
  .id small { color: #bbb } .pause small { color: #111 }
  .bad { color: #ff8a80 } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LEGEND = (
  "[pause] is the pause token; ~ in the prefix; ^ the target of this position "
  "is in the loss, and is the next token; ^x: the target x is in the loss, and "
  "is not the next token; no ^: the target is not in the loss."
)


def inspection_page(report: dict) -> str:
  """Returns the HTML of a report of `inspect`."""
  title = html.escape(report["what"])
  rows = "\n".join(_row(row) for row in report["rows"])
  numbers = "".join(
    f"<li>{html.escape(line)}</li>"
    for line in sequences.statistics_lines(report)
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
    f"<h1>{title}</h1><p>Pauses: {html.escape(report['pauses'])}</p>\n"
    f"<h2>Checks</h2><table>{_checks(report['checks'])}</table>\n"
    f"<h2>Numbers</h2><ul>{numbers}</ul>\n"
    f"<h2>The first rows</h2><p>{html.escape(_LEGEND)}</p>\n{rows}\n"
    "</body></html>\n"
  )


def _checks(checks: list[dict]) -> str:
  lines = []
  for check in checks:
    word = "ok" if check["is_ok"] else '<span class="bad">BAD</span>'
    texts = html.escape(check["name"]), html.escape(check["numbers"])
    cells = "".join(f"<td>{text}</td>" for text in (word, *texts))
    lines.append(f"<tr>{cells}</tr>")
  return "\n".join(lines)


def _row(row: dict) -> str:
  examples = "\n".join(
    f"<h4>Example {number}</h4>{_example(example)}"
    for number, example in enumerate(row["examples"], start=1)
  )
  padding = f"<p>Padding: {row['padding']} positions</p>"
  return f'<div class="row"><h3>Row {row["row"]}</h3>{examples}{padding}</div>'


def _example(example: dict) -> str:
  ids = "".join(_id(*cell) for cell in sequences.cells(example))
  return f'<div class="ids">{ids}</div>'


def _id(position: int, text: str, mark: str) -> str:
  classes = ["id"]
  classes += ["pause"] if text == "[pause]" else []
  classes += ["prefix"] if mark.startswith("~") else []
  classes += ["counts"] if "^" in mark[:2] else []
  return (
    f'<span class="{" ".join(classes)}" title="position {position}">'
    f"{html.escape(text)}<small>{html.escape(mark)}</small></span>"
  )
