"""The page of a study: its numbers, its safety, and what a browser says."""

import base64
import csv
import hashlib
import html
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from pausejax import errors, tasks
from pausejax.config import DataConfig, default
from pausejax.data.finetuning import examples
from pausejax.evaluation import results
from pausejax.programs import report as program
from pausejax.study import plan as plans
from pausejax.study.config import StudyConfig
from pausejax.study.report import chart, contents, curves, document, runs

NASTY = "</script><img src=x onerror=alert(1)>&lt;"
SCORES = {  # (pretraining, finetuning, M) -> the values of each seed.
  ("std", "m0", 0): ([1, 0, 0, 0], [1, 1, 0, 0]),
  ("pause", "m10", 10): ([1, 1, 1, 0], [1, 1, 1, 1]),
  ("pause", "m10", 0): ([0, 0, 0, 0], [1, 0, 0, 0]),
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
  CHROMIUM is None, reason="no chromium or google-chrome on the PATH"
)


def plan(workdir, **changes) -> plans.Study:
  fields = {
    **default(StudyConfig).to_dict(),
    "title": "Four & more",
    "pretrainings": {"std": ("a.py:pause=false",), "pause": ("a.py",)},
    "tasks": ("gsm8k",),
    "finetunings": {
      name: (f"b.py:task={{task}},pauses={name[1:]}",) for name in ("m0", "m10")
    },
    "evaluations": {"m10": ("--pauses=0",)},
    "seeds": (0, 1),
    "variants": (
      ("StdPT_StdFT", "std", "m0"),
      ("PausePT_StdFT", "pause", "m0"),
      ("PausePT_PauseFT", "pause", "m10"),
    ),
  }
  built = plans.make_plan(workdir, {**fields, **changes})
  built.save()
  return built


def write_run(workdir, *, seed=0, num_steps=4, **data) -> None:
  """A run of four steps: its losses are 4, 3, nan and 1."""
  workdir.mkdir(parents=True)
  config = {**default().to_dict(), "seed": seed}
  config["data"].update(data)
  (workdir / "config.json").write_text(json.dumps(config))
  lines = [
    {
      "step": i + 1,
      "loss": (4.0, 3.0, "nan", 1.0)[i % 4],
      "total_tokens": 100 * (i + 1),
      "real_tokens": 90 * (i + 1),
      "tokens_per_second": 50.0,
      "model_flops_per_second": 500.0,
    }
    for i in range(num_steps)
  ]
  lines.insert(2, {"step": 2, "eval_loss": 3.5})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text + '{"step": 5, "lo')


def write_result(workdir, m, values, *, seed=0, ft=None, sha256="") -> None:
  ft = m if ft is None else ft
  rows = [
    {
      "id": str(i),
      "prediction": NASTY if i == 1 else "right" if v else "wrong",
      "references": ["right"],
      "values": {"accuracy": float(v)},
    }
    for i, v in enumerate(values)
  ]
  result = {
    "task": "gsm8k",
    "split": "test",
    "examples_sha256": sha256,
    "num_pauses": m,
    "position": "append",
    "filler": "<pause>",
    "finetuned": {"num_pauses": ft, "position": "append", "filler": ""},
    "seed": seed,
    "step": 4,
    "pausejax": "0.0.7",
    "n": len(values),
    "metrics": {"accuracy": 100 * sum(values) / len(values)},
  }
  stem = f"gsm8k-test-append{m}-step4"
  results.write_result(workdir / "evaluations", stem, result, rows)


def write_study(workdir, local_dir="", sha256="", **changes) -> plans.Study:
  built = plan(workdir, **changes)
  for cell in built.pretraining_cells():
    write_run(cell.workdir, pause_fraction=0.1 * (cell.pretraining == "pause"))
  for cell in built.finetuning_cells():
    for (*arm, m), by_seed in SCORES.items():
      if arm != [cell.pretraining, cell.finetuning]:
        continue
      if not cell.workdir.exists():
        data = {"task": "gsm8k", "local_dir": str(local_dir)}
        write_run(cell.workdir, seed=cell.seed, **data)
      ft = int(cell.finetuning[1:])
      more = {"seed": cell.seed, "ft": ft, "sha256": sha256}
      write_result(cell.workdir, m, by_seed[cell.seed], **more)
  return built


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("report") / "study"
  write_study(workdir)
  assert program.main([f"--workdir={workdir}", "--paper"]) == 0
  return workdir


class Outline(html.parser.HTMLParser):
  """Checks that elements nest, and remembers them."""

  VOID = ("meta", "link", "input", "br")

  def __init__(self, text: str):
    super().__init__()
    self.elements, self.open, self.cells, self.text = [], [], [], ""
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag in ("td", "th"):
      self.cells.append("")
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not {"style", "script"} & {*self.open}:
      self.text += data
    if {"td", "th"} & {*self.open}:
      self.cells[-1] += data

  def count(self, tag: str) -> int:
    return sum(name == tag for name, _ in self.elements)


def read_table(path) -> list[dict]:
  with path.open() as file:
    return [*csv.DictReader(file)]


def outline(workdir) -> Outline:
  return Outline((workdir / "report.html").read_text())


def test_every_format_shows_numbers_computed_by_hand(written):
  # 25 and 50, 75 and 100: means 37.5 and 87.5, deviations 25 / sqrt(2).
  page = outline(written)
  for text in ("37.5 ± 17.7", "87.5 ± 17.7", "+50.0 ["):
    assert any(text in cell for cell in page.cells), text
    assert text in (written / "report.md").read_text().replace("\\", "")
    tex = (written / "report.tex").read_text()
    assert text.replace("±", "$\\pm$") in tex
  assert "0 of 2" in page.cells
  assert "7.5 ± 0.5" in page.cells  # The paper's StdPT_StdFT.
  first, missing, pause = read_table(written / "report.csv")
  assert [float(r["mean"]) for r in (first, pause)] == [37.5, 87.5]
  assert missing["mean"] == "" and float(pause["difference"]) == 50.0


def test_json_holds_sweeps_disagreements_differences_and_commands(written):
  found = json.loads((written / "report.json").read_text())
  std, pause = found["sweeps"]["gsm8k"]
  assert (std["label"], pause["label"]) == ("std m0", "pause m10")
  assert pause["num_pauses_finetuned"] == 10
  means = {
    p["num_pauses"]: p["scores"]["accuracy"]["mean"] for p in pause["points"]
  }
  assert means == {0: 12.5, 10: 87.5}
  compared = found["disagreements"]["gsm8k"][1]
  assert (compared["gained"], compared["lost"], compared["n"]) == (2, 0, 4)
  fractions = found["config_differences"]["data.pause_fraction"]
  assert (fractions["std"], fractions["pause"]) == ("0.0", "0.1")
  assert found["runs"][0]["flops"] == 4000 and found["runs"][0]["loss"] == 1.0
  train, evaluate, again = found["commands"]["finetune/pause-gsm8k-m10-s1"]
  assert train.startswith("pausejax train --config=b.py:task=gsm8k,pauses=10")
  assert again == f"{evaluate} --pauses=0"


def test_the_header_counts_and_warns(written):
  text = outline(written).text
  assert "0 of 8 done, 6 started" in text
  assert "pausejax 0.0.7" in text
  assert (
    "Only 2 seeds" in text and "best one was chosen on the reported" in text
  )


def test_mean_losses_leave_out_nonfinite_values(tmp_path):
  write_run(tmp_path / "run", num_steps=240)
  (curve,) = curves.read_curves(runs.below(tmp_path))
  assert curve.num_lines_averaged == 4 and len(curve.loss) == 60
  assert curve.loss[0].loss == pytest.approx((4 + 3 + 1) / 3)
  assert curve.loss[0].x == {
    "steps": 4,
    "total_tokens": 400,
    "real_tokens": 360,
    "flops": 4000.0,
  }
  assert [s.loss for s in curve.held_out] == [3.5]
  assert curve.held_out[0].x["steps"] == 2


def test_text_from_data_is_escaped(tmp_path):
  names = ((NASTY, "std", "m0"), ("<b-i>", "pause", "m10"))
  write_study(tmp_path, title=NASTY, variants=names)
  program.main([str(tmp_path)])
  page = outline(tmp_path)
  assert page.count("img") == page.count("b-i") == 0
  assert page.count("script") == page.count("h1") == 1
  assert page.text.count(NASTY) >= 3
  assert not any(k.startswith("on") for _, a in page.elements for k in a)


def test_the_page_refers_to_no_other_file(written):
  text = (written / "report.html").read_text()
  for tag, attributes in outline(written).elements:
    assert tag not in ("img", "iframe", "object", "embed", "base", "form")
    for key in {"src", "href", "srcset", "xlink:href"} & attributes.keys():
      assert attributes[key].startswith(("#", "data:")), attributes
  assert "url(" not in text and "@import" not in text and "http:" not in text
  assert "default-src 'none'" in text


def test_the_policy_allows_the_own_script_alone(written):
  page = outline(written)
  (policy,) = (
    a["content"]
    for tag, a in page.elements
    if a.get("http-equiv") == "Content-Security-Policy"
  )
  rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
  text = (written / "report.html").read_text()
  (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert rules["default-src"] == "'none'"
  assert rules["script-src"] == f"'sha256-{digest}'"


def test_the_page_is_accessible_to_screen_readers(written):
  page = outline(written)
  assert page.elements[0] == ("html", {"lang": "en"})
  assert page.count("h1") == page.count("main") == 1
  assert page.count("table") == page.count("caption") >= 4
  for tag, attributes in page.elements:
    assert tag != "th" or attributes["scope"] in ("row", "col")
    assert attributes.get("role") != "img" or attributes["aria-label"]
  ids = [a["id"] for _, a in page.elements if "id" in a]
  assert len(ids) == len({*ids})
  links = [a["href"][1:] for tag, a in page.elements if tag == "a"]
  assert {*links} <= {*ids}


def test_a_study_without_results_states_so_in_each_section(tmp_path):
  plan(tmp_path)
  program.main([f"--workdir={tmp_path}"])
  page = outline(tmp_path)
  assert page.cells.count("0 of 2") == 3
  for text in (
    "Nothing was evaluated",
    "No run has",
    "This needs two variants",
  ):
    assert text in page.text
  assert page.count("section") == 10 and "pausejax train" in page.text


def test_a_folder_of_runs_needs_no_study(tmp_path):
  for name in ("deep/plain-s0", "deep/plain-s1", "other"):
    write_run(tmp_path / name, seed=int(name[-1] == "1"), task="gsm8k")
  write_result(tmp_path / "deep/plain-s0", 0, [1, 0])
  write_result(tmp_path / "deep/plain-s1", 0, [1, 1], seed=1)
  write_result(tmp_path / "other", 10, [0, 1])
  out = tmp_path / "out" / "page.html"
  program.main([str(tmp_path), f"--out={out}"])
  rows = read_table(out.with_suffix(".csv"))
  assert [r["variant"] for r in rows] == ["deep/plain", "other"]
  assert [float(r["mean"]) for r in rows] == [75.0, 50.0]
  commands = json.loads(out.with_suffix(".json").read_text())["commands"]
  line = f"--config={tmp_path}/other/config.json --workdir={tmp_path}/other-"
  assert line in commands["other"][0]
  assert not list(out.parent.glob("*.tmp"))


def test_a_folder_without_results_or_runs(tmp_path):
  with pytest.raises(errors.UserError, match="neither a study"):
    program.main([str(tmp_path)])
  with pytest.raises(errors.UserError, match="no folder"):
    program.main([str(tmp_path / "gone")])
  with pytest.raises(errors.UsageError, match="name one folder"):
    program.main([])
  write_run(tmp_path / "run")
  program.main([str(tmp_path)])
  assert "Nothing was evaluated yet." in outline(tmp_path).text


def test_prompts_are_shown_if_the_data_is_available(tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  lines = [
    {"question": f"How many {i}?", "answer": "x #### 7"} for i in range(4)
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "test.jsonl").write_text(text)
  data = default().data.to_dict()
  data = DataConfig(**{**data, "local_dir": str(folder)})
  digest = examples.read_split(tasks.downstream("gsm8k"), "test", data).sha256
  write_study(tmp_path / "study", local_dir=folder, sha256=digest)
  found = contents.collect(tmp_path / "study")
  prompts = [case.prompt for case in found.disagreements["gsm8k"].cases]
  assert prompts == [f"Question: How many {i}?\nAnswer:" for i in (1, 2)]
  text = Outline(document.report_page(found, paper=False)).text
  assert "How many 1?" in text and "[pause] × 10" in text
  for other in ('{"question": "Else?", "answer": "#### 7"}', "no JSON"):
    (folder / "test.jsonl").write_text(other)
    found = contents.collect(tmp_path / "study")
    assert "not available" in document.report_page(found, paper=False)


def test_a_page_of_forty_runs_is_small(tmp_path):
  for i in range(40):
    write_run(tmp_path / f"run{i}", num_steps=500, seq_len=i)
    file = tmp_path / f"run{i}" / "metrics.jsonl"
    evaluated = '{"step": 1, "eval_loss": 2.5}\n'
    file.write_text(file.read_text().replace("}\n", "}\n" + evaluated))
  program.main([str(tmp_path)])
  assert (tmp_path / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize(
  ("low", "high", "wanted"),
  [
    (0, 50, [0, 10, 20, 30, 40, 50]),
    (-0.3, 0.31, [-0.3, -0.2, -0.1, 0]),
    (7, 9, [7, 7.5]),
  ],
)
def test_ticks_are_round_and_inside(low, high, wanted):
  found = chart.ticks(low, high)
  assert found[: len(wanted)] == pytest.approx(wanted)
  assert 3 <= len(found) <= 8
  assert low - 1e-9 <= found[0] and found[-1] <= high


@pytest.mark.parametrize("dark", [False, True])
def test_colors_contrast_with_the_page(written, dark):
  css = (written / "report.html").read_text()
  blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
  colors = dict(re.findall(r"--(\w+): #(\w+);", blocks[dark]))
  for name in ("ink", "soft", "link", "good", "bad"):
    assert contrast(colors[name], colors["page"]) >= 4.5, name
  for i in range(8):
    assert contrast(colors[f"c{i}"], colors["page"]) >= 3, i


def contrast(a: str, b: str) -> float:
  """The contrast ratio of WCAG 2."""

  def luminance(text: str) -> float:
    text = text if len(text) == 6 else "".join(c + c for c in text)
    parts = [int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = [
      c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
    ]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b

  low, high = sorted((luminance(a), luminance(b)))
  return (high + 0.05) / (low + 0.05)


# Run in a copy of the page, inside a frame (a window is never narrower than
# 500 pixels); what it finds becomes the title around it.
PROBE = """<script>
const shown = name => getComputedStyle(document.querySelector(name)).display;
const means = () => [...document.querySelectorAll(".sortable tbody tr")]
  .map(row => row.cells[2].dataset.value);
const click = name => document.querySelector(name).click();
const root = document.documentElement;
const sorted = [];
for (const _ of [1, 2]) {
  click(".sortable th:nth-child(3) button");
  const head = document.querySelector(".sortable th:nth-child(3)");
  sorted.push([head.getAttribute("aria-sort"), ...means()]);
}
const before = [shown(".by-steps"), shown(".by-flops")];
click("[for=by-flops]");
document.querySelectorAll("details").forEach(d => { d.open = true; });
parent.document.title = JSON.stringify({
  width: innerWidth,
  overflow: root.scrollWidth - root.clientWidth,
  dark: getComputedStyle(document.body).backgroundColor,
  switched: [...before, shown(".by-steps"), shown(".by-flops")],
  sorted,
});
</script></body>"""


def browse(page, *options: str) -> tuple[str, str]:
  """Returns the page after its scripts ran, and what the console said."""
  assert CHROMIUM
  command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
  command += [f"--user-data-dir={page.parent / 'profile'}"]
  command += ["--enable-logging=stderr", "--v=0", *options, page.as_uri()]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
  return done.stdout, "\n".join(console)


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 380])
def test_a_browser_reports_no_errors(written, tmp_path, width, dark):
  text = (written / "report.html").read_text().replace("</body>", PROBE)
  # The page's own policy would stop the probe.
  text = re.sub("script-src [^;]+", "script-src 'unsafe-inline'", text)
  size = f'width="{width}" height="1000"'
  copy = tmp_path / "copy.html"
  copy.write_text(
    f'<title></title><iframe {size} srcdoc="{html.escape(text)}"></iframe>'
  )
  scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
  dom, console = browse(copy, "--dump-dom", "--window-size=1400,1100", scheme)
  assert console == ""
  title = re.search("<title>(.*?)</title>", dom)
  assert title
  found = json.loads(html.unescape(title[1]))
  assert (found["width"], found["overflow"]) == (width, 0)
  assert found["dark"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
  assert found["switched"] == ["block", "none", "none", "block"]
  up, down = found["sorted"]
  assert up == ["ascending", "37.5", "87.5", ""]
  assert down == ["descending", "87.5", "37.5", ""]


@needs_chromium
@pytest.mark.slow
def test_the_policy_stops_scripts_that_text_might_bring(written, tmp_path):
  """Of a second script only the copy without a policy runs it."""
  text = (written / "report.html").read_text()
  more = "<script>document.title = 'ran'</script></body>"
  for name, is_stopped in (("Content-Security", True), ("X", False)):
    page = tmp_path / "page.html"
    page.write_text(
      text.replace("</body>", more).replace("Content-Security", name)
    )
    dom, console = browse(page, "--dump-dom")
    assert ("<title>ran</title>" in dom) != is_stopped
    assert ("Content Security Policy" in console) == is_stopped


@needs_chromium
@pytest.mark.slow
def test_the_policy_prevents_network_requests(written, tmp_path):
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      self.send_error(404)

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = (written / "report.html").read_text()
    for name in ("with", "without"):
      url = f"http://127.0.0.1:{server.server_port}/{name}"
      more = f'<img src="{url}"><script src="{url}"></script></body>'
      page = tmp_path / f"{name}.html"
      page.write_text(text.replace("</body>", more))
      if name == "without":
        page.write_text(page.read_text().replace("Content-Security", "X"))
      browse(page, "--dump-dom")
    server.shutdown()
  assert {*asked} == {"/without"}
