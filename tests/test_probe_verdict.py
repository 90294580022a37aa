"""From examples to a verdict: a model that needs its pauses, one that doesn't.

`pausejax probe` and its section of the report, on a small saved run.
"""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from pausejax import cli, errors, metrics, tasks
from pausejax.config import ModelConfig, default
from pausejax.data.finetuning import prompts
from pausejax.evaluation import answers
from pausejax.probe import measure, results, sequences, summary, verdict
from pausejax.prompt_pauses import PromptPauses
from pausejax.study import render
from pausejax.tasks import records
from tests import models, reports, runs, test_answers
from tests.test_answers import TOKENIZER
from tests.test_sharding import one_device_mesh

NUM = 320  # From 300 on, no change at all is within the margin.


def letters_model(*, attends: bool):
  """A random model that answers in letters; its attention may be nothing."""
  tree = default().model
  tree.update({**runs.SMALL, "max_seq_len": 64, "head_bias": True})
  config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **tree.to_dict())
  letters = [ids[0] for ids in TOKENIZER.encode([*"abcdefghijklmnopqrst"])]
  bias_V = np.full(config.num_vocab_rows, -50.0, np.float32)
  bias_V[letters] = 0

  def change(path, x):
    name = jax.tree_util.keystr(path)
    if "head_bias" in name:
      return jax.numpy.asarray(bias_V)
    if "mix" in name and not attends:
      return 0 * x
    return x if "scale" in name else 6 * x

  return jax.tree_util.tree_map_with_path(
    change, models.random_model(config, seed=0)
  )


def letters_task() -> tasks.Task:
  return tasks.Task(
    name="letters",
    kind="decode",
    source=records.Generated(name="none", make={}),
    examples=iter,
    metrics={"accuracy": metrics.exact_match},
    max_target_len=1,
    delimiter="",
  )


def questions(model, format_) -> list[tasks.Example]:
  """Random prefixes, whose targets are the model's own answers."""
  rng = np.random.default_rng(0)
  made = [
    tasks.Example(
      id=str(i),
      prefix="".join(rng.choice([*"uvwxyz"], size=3 + i % 9)),
      target="a",
      references=("a",),
    )
    for i in range(NUM)
  ]
  predictor = answers.Predictor(
    format=format_, tokenizer=TOKENIZER, batch_size=64
  )
  found = predictor.answer(model, made, lambda *_: None).rows
  return [
    dataclasses.replace(e, target=row["prediction"])
    for e, row in zip(made, found, strict=True)
  ]


def prober(model, format_, examples, batch_size=64) -> measure.Prober:
  return measure.Prober(
    model=model,
    format=format_,
    examples=examples,
    pause_id=TOKENIZER.pause_id,
    batch_size=batch_size,
  )


def probe(it: measure.Prober, maps=(), by=results.AXES) -> dict:
  specs = measure.specs_of(2, 4, it.num_probed, maps, by)
  unchanged = it.unchanged(lambda *_: None)
  lesioned = it.lesioned(
    [*specs.values()], unchanged.means_LGD, lambda *_: None
  )
  groups = [e.id for e in it.examples]
  return summary.summarize(unchanged, [*specs], lesioned, groups, str)


@pytest.mark.parametrize(
  ("attends", "position", "expected"),
  [
    (True, "append", verdict.USES),
    (True, "both", verdict.USES),
    # No pause sees the example, so none can hold anything of it.
    (True, "prepend", verdict.IGNORES_CONTENT),
    (False, "append", verdict.IGNORES),
  ],
)
def test_the_verdict_of_a_model_that_needs_its_pauses(
  attends, position, expected
):
  model = letters_model(attends=attends)
  pauses = PromptPauses(num_pauses=4, position=position)
  format_ = prompts.Format(letters_task(), TOKENIZER, pauses)
  with jax.set_mesh(one_device_mesh()):
    it = prober(model, format_, questions(model, format_))
    found = probe(it)
  assert it.num_probed == (4 if position == "prepend" else 3)
  # What is scored in one pass is what decoding answers.
  assert found["accuracy"]["mean"] == 100
  assert found["verdict"] == expected
  drops = {k: e["accuracy"]["mean"] for k, e in found["lesions"].items()}
  if not attends:
    assert {*drops.values()} == {0.0}
  first, *_, last = found["kept"]
  assert first["accuracy"]["mean"] == 100 - drops["cut"]
  assert last["num_kept"] == it.num_probed
  assert last["accuracy"] == found["accuracy"]


def test_options_are_chosen_as_in_evaluation():
  examples = [
    dataclasses.replace(e, label=i % 2)
    for i, e in enumerate(test_answers.examples("options"))
  ]
  pauses = PromptPauses(num_pauses=4)
  format_ = prompts.Format(test_answers.task("options"), TOKENIZER, pauses)
  expected = test_answers.answer("options", num_pauses=4)
  with jax.set_mesh(one_device_mesh()):
    for batch_size in (4, 16):
      it = prober(test_answers.small_model(), format_, examples, batch_size)
      values = it.unchanged(lambda *_: None).values
      for i, row in enumerate(expected.rows):
        nats = np.array(row["log_likelihoods"])
        log_share = nats[i % 2] - np.logaddexp.reduce(nats)
        assert values.is_right[i] == (np.argmax(nats) == i % 2)
        assert values.log_likelihood[i] == pytest.approx(log_share, rel=1e-3)


def test_a_map_has_every_layer_and_pause_once():
  specs = measure.specs_of(3, 5, 4, ["cut"])
  cells = [
    s.is_on_LG for key, s in specs.items() if key[:2] == ("cut", "place")
  ]
  assert len(cells) == 12 and (np.sum(cells, axis=0)[:, :4] == 1).all()
  assert not any(spec.is_on_LG[:, 4].any() for spec in specs.values())
  assert (specs["kept", 0].is_on_LG == specs["cut",].is_on_LG).all()
  assert len(specs) == 4 * (1 + 3 + 4) + 12 + 4
  assert len(measure.specs_of(3, 5, 4, [], [])) == 4 + 4


def test_the_verdict_needs_no_lesion_by_layer_or_pause():
  model = letters_model(attends=True)
  pauses = PromptPauses(num_pauses=4)
  format_ = prompts.Format(letters_task(), TOKENIZER, pauses)
  with jax.set_mesh(one_device_mesh()):
    it = prober(model, format_, questions(model, format_))
    whole = probe(it, maps=["cut"])
    least = probe(it, by=[])
  none = {"by_layer": {}, "by_pause": {}, "by_layer_and_pause": {}}
  assert least == whole | none
  assert [len(rows) for rows in whole["by_layer_and_pause"]["cut"]] == [3, 3]


def test_a_donor_has_another_right_answer():
  task = letters_task()
  format_ = prompts.Format(task, TOKENIZER, PromptPauses(num_pauses=2))

  def donors(answers_: str) -> list[int]:
    made = [
      tasks.Example(id=str(i), prefix="x" * (9 - i), target=a, references=a)
      for i, a in enumerate(answers_)
    ]
    encoded = sequences.encode(format_, made, 64)
    return [row.example for row in encoded.donors]

  assert donors("aabca") == [2, 2, 3, 4, 2]
  with pytest.raises(errors.UsageError, match="two different right answers"):
    donors("aaa")


def drop(mean: float, width: float = 0.1) -> verdict.Drop:
  return verdict.Drop(mean, mean - width, mean + width)


@pytest.mark.parametrize(
  ("cut", "mean", "transplant", "expected", "reason"),
  [
    (9, 9, 9, verdict.USES, ""),
    (0, 0, 0, verdict.IGNORES, ""),
    (9, 0, 0, verdict.IGNORES_CONTENT, "the pauses must be there"),
    (1, 0, 0, verdict.IGNORES_CONTENT, "the pauses may have to be there"),
    (0, 9, 9, verdict.UNKNOWN, "as good without them"),
    (9, 1, 9, verdict.UNKNOWN, "contains a margin"),
    (9, 0, 9, verdict.UNKNOWN, "contains a margin"),
    (-9, 0, -9, verdict.UNKNOWN, "better under transplant and cut"),
    (-9, 0, 0, verdict.UNKNOWN, "better under cut"),
  ],
)
def test_the_rule(cut, mean, transplant, expected, reason):
  points = {"cut": cut, "mean": mean, "transplant": transplant}
  effects = {
    name: {"accuracy": drop(x), "log_likelihood": drop(0, 0.01)}
    for name, x in points.items()
  }
  found, why = verdict.decide(effects)
  assert found == expected and reason in why
  # A drop in log-likelihood alone is enough, and prevents "ignores".
  for effect in effects.values():
    effect["accuracy"], effect["log_likelihood"] = drop(0), drop(1)
  assert verdict.decide(effects)[0] == verdict.USES


def test_intervals_cover_the_drop_and_know_how_many_examples_there_were():
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(200):
    after_N = rng.random(150) < 0.8
    (found,) = verdict.drops(np.ones(150), after_N[None], [*range(150)])
    covered += found.low <= 0.2 <= found.high
  assert 0.9 <= covered / 200 <= 0.99
  for n, is_equal in ((299, False), (300, True)):
    ones_N = np.ones(n)
    (found,) = verdict.drops(
      ones_N, ones_N[None], [*range(n)], scale=100, is_binary=True
    )
    assert found.is_within(1.0) == is_equal


def test_examples_of_one_group_count_once():
  values_N = np.repeat(np.random.default_rng(0).random(40), 10)
  zero_N = np.zeros(400)
  (alone,) = verdict.drops(values_N, zero_N[None], [*range(400)])
  (grouped,) = verdict.drops(
    values_N, zero_N[None], [i // 10 for i in range(400)]
  )
  ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
  assert ratio == pytest.approx(10**0.5, rel=0.15)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
  """A run that was probed once, and what was printed."""
  workdir = tmp_path_factory.mktemp("probe") / "run"
  runs.save_run(workdir)
  return workdir


def run_probe(workdir, *words) -> int:
  argv = ["probe", f"--checkpoint={workdir}", "--batch_size=8", "--limit=16"]
  return cli.main([*argv, *words])


def test_the_command_prints_a_verdict_and_writes_what_the_report_draws(
  probed, capsys
):
  words = ("--task=parity20", "--pauses=3", "--maps=cut")
  assert run_probe(probed, *words) == 0
  said = capsys.readouterr().out
  (path,) = (probed / "probes").iterdir()
  stem = "parity20-validation-append3-step0"
  assert path.name == f"{stem}-n16-maps_cut.json"
  (result,) = results.read_probes(probed / "probes")
  assert f"verdict: {result['verdict']}\n" in said
  assert verdict.RULE in said and result["rule"] == verdict.RULE
  assert result["num_probed"] == 2 and result["n"] == 16
  assert [len(x) for x in result["by_layer_and_pause"]["cut"]] == [2, 2]
  assert [len(x) for x in result["lens"]["accuracy"]] == [3, 3, 3]
  assert "--maps=cut" in result["command"]
  assert run_probe(probed, *words) == 0
  (again,) = results.read_probes(probed / "probes")
  changing = {"seconds"}
  assert {k: v for k, v in again.items() if k not in changing} == {
    k: v for k, v in result.items() if k not in changing
  }


def test_a_smaller_probe_replaces_no_larger_one(probed, tmp_path):
  words = ("--task=parity20", "--pauses=2", f"--out={tmp_path}")
  for more in ((), ("--maps=", "--by=pause"), ("--limit=8", "--maps=zero,cut")):
    assert run_probe(probed, *words, *more) == 0
  stem = "parity20-validation-append2-step0"
  found = {x.name: json.loads(x.read_text())["n"] for x in tmp_path.iterdir()}
  assert found == {
    f"{stem}-n16.json": 16,
    f"{stem}-n16-maps_none-by_pause.json": 16,
    f"{stem}-n8-maps_cut_zero.json": 8,
  }


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--task=parity20", "--pauses=0"], "without pauses (M = 0)"),
    (["--task=parity20", "--pauses=1"], "read at the only pause"),
    (["--task=parity20", "--pauses=2,3"], "one number at a time"),
    ([], "which has no answers; name a downstream task"),
    (["--task=c4"], "c4"),
    (["--task=parity20", "--maps=cuts"], "did you mean 'cut'?"),
    (["--task=parity20", "--by=layers"], "did you mean 'layer'?"),
    (["--task=parity20", "--split=tests"], "--split"),
  ],
)
def test_a_probe_of_nothing_is_one_line(probed, words, message, capfd):
  assert run_probe(probed, *words) == 2
  out, err = capfd.readouterr()
  assert message in err and len(err.splitlines()) == 1, (out, err)


def test_the_report_draws_a_probe_and_escapes_it(probed, tmp_path, capsys):
  words = ("--task=parity20", "--pauses=3", "--maps=cut,mean")
  folder = tmp_path / "runs" / "a"
  reports.write_run(folder)
  assert run_probe(probed, *words, f"--out={folder / 'probes'}") == 0
  (path,) = (folder / "probes").iterdir()
  result = json.loads(path.read_text())
  result["lens"]["top"][0][0] = "<script>"
  path.write_text(json.dumps(result))
  assert cli.main(["report", str(folder.parent)]) == 0
  page = (folder.parent / "report.html").read_text()
  section = page.partition('id="probes"')[2].partition("</section>")[0]
  assert f"<b>{result['verdict']}</b>" in section
  assert section.count("<svg") == 4 + 2
  # Two maps of 2 x 2, the lens of 3 x 3, and 2 layers x 4 heads.
  assert len(re.findall(r'class="cell', section)) == 8 + 9 + 8
  assert "<script>" not in section and "&lt;script&gt;" in section
  text = (folder.parent / "report.md").read_text()
  assert f"| {result['verdict']} |" in text
  assert "| a | parity20 | validation | 3 | 16 |" in text
  for effect in (result["lesions"][x] for x in ("cut", "mean", "transplant")):
    pair = (effect["accuracy"], effect["log_likelihood"])
    shown = [verdict.format_drop(verdict.Drop(**drop)) for drop in pair]
    assert f"| {' | '.join(map(render.markdown_text, shown))} |" in text
  assert "pausejax probe --checkpoint=" in page
  path.write_text(path.read_text().replace('"verdict"', '"verdikt"'))
  assert cli.main(["report", str(folder.parent)]) == 1
  assert "verdict is missing; probe again" in capsys.readouterr().err
