"""The page of a report: its safety, its colors, and what a browser reports."""

import base64
import hashlib
import html
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from pausejax.programs import report as program
from pausejax.study.report import chart
from tests import reports
from tests.reports import NASTY, outline, write_run, write_study

# Fixtures that several test files share.
written = reports.written

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
  CHROMIUM is None, reason="no chromium or google-chrome on the PATH"
)


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
