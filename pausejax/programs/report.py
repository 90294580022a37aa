"""Shows a study, or any folder of runs, on one self-contained page.

  pausejax report --workdir=runs/study --paper
  pausejax report runs/study --out=study.html

Also works while the study runs, and on folders of `pausejax train` without a
study. The same report is written as Markdown, CSV, LaTeX and JSON, under the
same name. The page loads nothing from the network.
"""

import json
import pathlib

from pausejax import commandline, errors, files
from pausejax.buckets import copies, urls
from pausejax.runtime import phases
from pausejax.study import render
from pausejax.study.report import contents, document


def main(argv: list[str]) -> int:
  """Collects the available results and writes them in every format."""
  parser = commandline.Parser(
    "report", __doc__, config=False, in_bucket=("workdir", "folder")
  )
  add = parser.add_argument
  add("folder", nargs="?", default="", help="the same as --workdir")
  add("--workdir", default="", help="folder of a study, or of runs")
  add("--out", default="", help="page to write (WORKDIR/report.html)")
  add("--paper", action="store_true", help="show the paper's numbers, too")
  options, _ = parser.parse(argv)
  errors.require(
    bool(options.workdir) != bool(options.folder),
    "report: name one folder, as in pausejax report --workdir=runs/study",
  )
  spec = options.workdir or options.folder
  errors.require(
    not urls.is_url(spec) or bool(options.out),
    "--out: name a page on this machine for the report of a run in a bucket",
  )
  phases.enter("reading")
  workdir = copies.local_run(spec, "--workdir")
  report = contents.collect(workdir)
  out = pathlib.Path(options.out or workdir / "report.html")
  errors.require(
    out.suffix == ".html",
    f"--out: expected a name that ends in .html, got {str(out)!r}",
  )
  files.require_writable_file("--out", out)
  out.parent.mkdir(parents=True, exist_ok=True)
  texts = _texts(report, paper=options.paper)
  for suffix, text in texts.items():
    files.write(out.with_suffix(suffix), text)
  others = ", ".join(suffix for suffix in texts if suffix != out.suffix)
  print(f"{out}, and in the same folder the tables and numbers as {others}")
  return 0


def _texts(report: contents.Report, *, paper: bool) -> dict[str, str]:
  """Returns file suffix -> content."""
  return {
    ".html": document.report_page(report, paper=paper),
    ".md": document.report_markdown(report, paper=paper),
    ".csv": render.csv(report.rows),
    ".tex": render.latex(report.rows, paper=paper),
    ".json": json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n",
  }
