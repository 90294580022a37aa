"""Answers and scores: nobody is counted twice, whatever the batch or hosts."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from pausejax import errors, metrics, sharding, tasks
from pausejax.config import ModelConfig, default
from pausejax.data import tokenizers
from pausejax.data.finetuning import prompts
from pausejax.evaluation import answers
from pausejax.prompt_pauses import PromptPauses
from pausejax.runtime import flops
from pausejax.tasks import records
from tests import models, processes, toys
from tests.test_sharding import mesh_of_8, one_device_mesh

TOKENIZER = tokenizers.load_tokenizer("bytes")
NUM = 13  # Divides by no batch size or number of devices here.


def task(kind: str) -> tasks.Task:
  source = records.Generated(name="none", make={})
  return tasks.Task(
    name=kind,
    kind=kind,
    source=source,
    examples=iter,
    metrics={"em": metrics.exact_match} if kind == "decode" else {},
    max_target_len=4,
    perplexity=kind == "decode",
  )


def examples(kind: str) -> list[tasks.Example]:
  """Prefixes of different lengths; options of different numbers, too."""
  found = []
  for i in range(NUM):
    options = ("yes", "no", "perhaps")[: 2 + i % 2] if kind == "options" else ()
    found.append(
      tasks.Example(
        id=str(i),
        prefix="ab" * (1 + i % 5),
        target=options[0] if options else "x",
        references=("x",),
        options=options,
        label=0 if options else -1,
      )
    )
  return found


def small_model(prefix_attention="causal"):
  """A random decoder over the bytes' vocabulary."""
  fields = default().model
  fields.update(num_layers=2, d_model=16, num_heads=4, num_kv_heads=4, d_ff=32)
  fields.update(max_seq_len=64, dtype="float32", remat="none")
  fields.update(prefix_attention=prefix_attention)
  config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **fields.to_dict())
  return models.random_model(config, seed=0)


def answer(kind, *, batch_size=4, mesh=None, num_pauses=3, **model):
  format_ = prompts.Format(
    task(kind), TOKENIZER, PromptPauses(num_pauses=num_pauses)
  )
  answerer = answers.Predictor(
    format=format_,
    tokenizer=TOKENIZER,
    batch_size=batch_size,
  )
  with jax.set_mesh(mesh or one_device_mesh()):
    placed = jax.device_put(
      small_model(**model), sharding.shardings(small_model(**model))
    )
    return answerer.answer(placed, examples(kind), lambda *_: None)


@pytest.mark.parametrize("kind", ["decode", "options"])
def test_a_model_that_overflows_has_no_score(kind, monkeypatch):
  large = jax.tree.map(lambda x: x * 1e30, small_model())
  monkeypatch.setattr(sys.modules[__name__], "small_model", lambda: large)
  with pytest.raises(errors.UserError, match="gives NaN"):
    answer(kind)


def same(a: answers.Answers, b: answers.Answers) -> None:
  assert [r["id"] for r in a.rows] == [r["id"] for r in b.rows]
  assert [r["prediction"] for r in a.rows] == [r["prediction"] for r in b.rows]
  for name in a.metrics:
    # float32 in another order: 1e-5 of a log-likelihood of tens of nats.
    assert a.metrics[name] == pytest.approx(b.metrics[name], rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decode", "options"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_batch_size_changes_nothing(kind, attention):
  whole = answer(kind, batch_size=16, prefix_attention=attention)
  parts = answer(kind, batch_size=4, prefix_attention=attention)
  assert len(whole.rows) == len(parts.rows) == NUM
  same(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decode", "options"])
def test_eight_devices_answer_as_one(kind):
  one = answer(kind, batch_size=8)
  same(one, answer(kind, batch_size=8, mesh=mesh_of_8(2, 2, 2)))


def test_characters_are_counted_as_published(monkeypatch):
  """White space that was published counts in accuracy_per_character."""
  plain = answer("options", batch_size=8)
  as_published = [
    dataclasses.replace(e, num_characters=(100, 1, 1)[: len(e.options)])
    for e in examples("options")
  ]
  monkeypatch.setitem(globals(), "examples", lambda kind: as_published)
  found = answer("options", batch_size=8)
  changed = 0
  for before, after in zip(plain.rows, found.rows, strict=True):
    assert before["log_likelihoods"] == after["log_likelihoods"]
    scores = np.array(after["log_likelihoods"])
    best = np.argmax(scores / np.array([100, 1, 1])[: len(scores)])
    assert after["values"]["accuracy_per_character"] == float(best == 0)
    changed += before["values"] != after["values"]
  assert changed > 0


def test_metrics_are_means_over_real_examples_only():
  found = answer("options", batch_size=8)
  for name, percent in found.metrics.items():
    values = [row["values"][name] for row in found.rows]
    assert len(values) == NUM
    assert percent == pytest.approx(100 * np.mean(values))


@pytest.mark.parametrize("kind", ["decode", "options"])
def test_the_costs_are_those_of_prompt_pauses_and_answer(kind):
  none, three = (answer(kind, num_pauses=m, batch_size=2) for m in (0, 3))
  config = small_model().config
  for found, m in ((none, 0), (three, 3)):
    for row, example in zip(found.rows, examples(kind), strict=True):
      prompt = 1 + len(TOKENIZER.encode([example.prefix])[0]) + m
      assert row["num_positions"] == prompt + row["num_new"]
      if kind == "options":
        assert row["num_new"] == sum(len(o) + 1 for o in example.options)
    costs = [
      flops.of_answer(config, row["num_positions"], row["num_new"])
      for row in found.rows
    ]
    assert found.flops_per_example == pytest.approx(np.mean(costs))
    assert found.seconds_per_example > 0
  if kind == "options":  # Answers that are decoded may differ in length.
    assert three.flops_per_example > none.flops_per_example
  few = answer(kind, num_pauses=0, batch_size=NUM)
  assert few.seconds_per_example is None


def test_the_number_of_pauses_reaches_the_model():
  none, three = (answer("options", num_pauses=m) for m in (0, 3))
  for a, b in zip(none.rows, three.rows, strict=True):
    assert a["log_likelihoods"] != b["log_likelihoods"]


def test_examples_that_do_not_fit_are_refused_before_any_work():
  with pytest.raises(errors.UsageError, match="example '0' of task 'decode'"):
    answer("decode", num_pauses=64)


_PROCESS = """
import json, sys
import jax
index, port = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
from pausejax import sharding
from tests import test_answers
mesh = sharding.data_mesh()
found = {}
for kind in ("decode", "options"):
  answers = test_answers.answer(kind, batch_size=8, mesh=mesh)
  found[kind] = [answers.metrics, [r["prediction"] for r in answers.rows]]
print("FOUND", json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path):
  port = str(20000 + os.getpid() % 20000)
  started = [
    subprocess.Popen(
      [sys.executable, "-c", _PROCESS, str(index), port],
      cwd=toys.ROOT,
      env=processes.environment(0, 1, 0, devices=2),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  outputs = [p.communicate(timeout=300) for p in started]
  found = []
  for process, (output, error) in zip(started, outputs, strict=True):
    assert process.returncode == 0, error
    line = next(x for x in output.splitlines() if x.startswith("FOUND "))
    found.append(json.loads(line.removeprefix("FOUND ")))
  assert found[0] == found[1]  # Every host knows every answer,
  for kind, (metrics_, predictions) in found[0].items():
    one = answer(kind, batch_size=8)  # and they are those of one process.
    assert predictions == [row["prediction"] for row in one.rows]
    assert metrics_ == pytest.approx(one.metrics, rel=1e-3)
