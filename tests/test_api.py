"""The Python API: every example in its docstrings runs, and what is refused."""

import ast
import doctest
import functools
import json
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import pausejax
from pausejax import errors, losses
from pausejax.inference import loaded
from pausejax.model import decoder
from tests import models

SENTENCE = "The assert statement is a convenient way to debug a program.\n"
TESTS = {
  test.name: test
  for name in pausejax.__all__
  for test in doctest.DocTestFinder().find(
    getattr(pausejax, name), name, globs={}
  )
  if test.examples
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A toy run, trained by the example of `train`."""
  folder = tmp_path_factory.mktemp("api")
  documents = [json.dumps({"text": SENTENCE * (1 + i % 3)}) for i in range(60)]
  (folder / "text.jsonl").write_text("\n".join(documents) + "\n")
  run_examples("train", folder)
  return folder


def run_examples(name: str, folder: pathlib.Path) -> None:
  """Runs the examples of a docstring, and fails if one fails."""
  names = {
    "np": np,
    "pausejax": pausejax,
    "text": folder / "text.jsonl",
    "workdir": folder / "run",
  }
  test = TESTS[name]
  test.globs = names
  assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", ["insert_pauses", "make_batch", "masked_loss"])
def test_the_examples_without_a_run(name, tmp_path):
  run_examples(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["LoadedRun.log_likelihoods", "LoadedRun.logits", "load"]
)
def test_the_examples_with_a_run(name, place):
  run_examples(name, place)


def test_every_public_function_has_an_example():
  simple = {"LoadedRun", "PauseSpec", "PromptPauses", "UserError"}
  simple |= {"remove_pauses"}
  assert {*pausejax.__all__} - TESTS.keys() == simple
  assert {f"LoadedRun.{n}" for n in ("log_likelihoods", "logits")} <= {*TESTS}


def test_the_example_of_the_package_runs():
  assert doctest.testmod(pausejax).failed == 0


def test_importing_the_package_imports_nothing_heavy():
  code = (
    "import sys, pausejax; pausejax.__version__; dir(pausejax); "
    "print({'jax', 'numpy', 'ml_collections', 'tensorflow'} & {*sys.modules})"
  )
  command = [sys.executable, "-c", code]
  assert subprocess.check_output(command, text=True) == "set()\n"
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    pausejax.lod  # noqa: B018


def test_type_checkers_see_the_same_names():
  stub = pathlib.Path(pausejax.__file__).with_suffix(".pyi").read_text()
  names = {
    alias.asname
    for node in ast.walk(ast.parse(stub))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }
  assert names == {*pausejax.__all__, "config"}


@pytest.mark.slow
def test_a_second_call_resumes_and_the_config_stays(place):
  run_examples("read_metrics", place)
  config = pausejax.config.load_config(str(place / "run" / "config.json"))
  before = config.to_json_best_effort()
  handler = signal.getsignal(signal.SIGINT)
  metrics = pausejax.train(config, place / "run")
  assert metrics["step"].tolist() == [1, 2, 2]
  assert config.to_json_best_effort() == before
  assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_generation_depends_on_neither_the_batch_nor_the_call(place):
  run = pausejax.load(place / "run", step=2)
  both = run.generate(["The", "A way"], num_pauses=3, max_new_tokens=5)
  assert run.generate("A way", num_pauses=3, max_new_tokens=5) == both[1:]


@pytest.mark.slow
def test_likelihoods_are_those_of_the_logits(place):
  run = pausejax.load(place / "run")
  (found,) = run.log_likelihoods(["It"], [[" is", "?"]], num_pauses=2)
  prompt = [run.tokenizer.bos_id, *run.tokenizer.encode(["It"])[0]]
  prompt += [run.tokenizer.pause_id] * 2
  for nats, text in zip(found, (" is", "?"), strict=True):
    (option,) = run.tokenizer.encode([text])
    logits_TV = run.logits([*prompt, *option])[len(prompt) - 1 : -1]
    log_prob_TV = jax.nn.log_softmax(logits_TV)
    expected = log_prob_TV[np.arange(len(option)), option].sum()
    assert nats == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("question", "words"),
  [
    (lambda run: run.generate([]), "prompts: expected at least one text"),
    (lambda run: run.generate("a", num_pauses=-1), "num_pauses"),
    (lambda run: run.generate("a", position="x"), "append"),
    (lambda run: run.generate("a", top_p=2), "top_p"),
    (lambda run: run.generate("a", num_pauses=10**4), "lower one of them"),
    (lambda run: run.log_likelihoods(["a"], []), "one list for each prefix"),
    (lambda run: run.log_likelihoods(["a"], [[""]]), "no tokens"),
    (lambda run: run.log_likelihoods(["a"], [[]]), "at least one text"),
    (lambda run: run.logits([0.5]), "whole numbers"),
    (lambda run: run.logits([260]), "from 0 to 259"),
    (lambda run: run.logits([[0] * 10**4]), "with T from 1 to"),
  ],
)
def test_requests_that_a_run_cannot_serve_end_in_one_line(
  place, question, words
):
  run = loaded.load(place / "run")
  with pytest.raises(errors.UsageError, match=words) as e:
    question(run)
  assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_missing_run_or_file_is_named(tmp_path, place):
  with pytest.raises(errors.UserError, match="nowhere"):
    pausejax.load(tmp_path / "nowhere")
  with pytest.raises(errors.UserError, match="7"):
    pausejax.load(place / "run", step=7)
  with pytest.raises(errors.UserError, match=r"metrics\.jsonl"):
    pausejax.read_metrics(tmp_path)
  with pytest.raises(errors.UsageError, match="load_config"):
    pausejax.train("smoke", tmp_path)  # pyright: ignore[reportArgumentType]
  config = pausejax.config.default()
  config.data.task = "text"
  with pytest.raises(errors.UserError):
    pausejax.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["insert_trim", "exact"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_pauses_in_segments_of_any_length(mode, fraction):
  for length in (1, 2, 7, 50):
    tokens_BT = np.arange(2 * length).reshape(2, length)
    found_BT = pausejax.insert_pauses(
      tokens_BT, pause_id=999, pause_fraction=fraction, mode=mode, seed=3
    )
    for tokens_T, found_T in zip(tokens_BT, found_BT, strict=True):
      text = pausejax.remove_pauses(found_T, 999)
      np.testing.assert_array_equal(text, tokens_T[: len(text)])
      assert mode == "insert_trim" or len(text) == length
    assert mode == "exact" or found_BT.shape == tokens_BT.shape
    again_T = pausejax.insert_pauses(
      tokens_BT[1],
      pause_id=999,
      pause_fraction=fraction,
      mode=mode,
      seed=3,
      first_position=1,
    )
    np.testing.assert_array_equal(again_T, found_BT[1])


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"tokens": [0.5]}, "whole numbers"),
    ({"tokens": []}, "whole numbers"),
    ({"tokens": [1, 9]}, "hold pause_id 9"),
    ({"pause_fraction": 1.0}, "pause_fraction"),
    ({"mode": "x"}, "insert_trim"),
    ({"first_position": -1}, "first_position"),
  ],
)
def test_pauses_that_cannot_be_inserted(arguments, words):
  with pytest.raises(errors.UsageError, match=words):
    pausejax.insert_pauses(**{"tokens": [1, 2], "pause_id": 9, **arguments})


@pytest.mark.parametrize(
  ("rows", "words"),
  [
    ([], "at least one id"),
    ([[]], "at least one"),
    ([[1] * 5], "seq_len is 4"),
  ],
)
def test_batches_that_cannot_be_made(rows, words):
  with pytest.raises(errors.UsageError, match=words):
    pausejax.make_batch(rows, bos_id=1, pad_id=0, pause_id=9, seq_len=4)


def test_the_masked_loss_equals_the_trainers():
  model = models.model()
  batch = models.batch()
  logits_BTV = models.logits(model, batch)
  arguments = batch["targets"], batch["loss_mask"]
  nats, count = pausejax.masked_loss(logits_BTV, *arguments)
  x_BTD = models.apply(model, batch)
  expected, _ = losses.cross_entropy(
    x_BTD,
    model.head_DV(),
    *arguments,
    finish=functools.partial(decoder.finish_logits, config=model.config),
    num_chunks=1,
    z_loss=0.0,
  )
  assert float(nats) == pytest.approx(float(expected), rel=1e-5)
  assert int(count) == batch["loss_mask"].sum()


def test_uncounted_targets_change_neither_loss_nor_gradient():
  logits = np.array([[[1.0, 2.0], [np.nan, np.inf]]], np.float32)
  targets, mask = np.array([[0, 99]]), np.array([[True, False]])
  loss = lambda x: pausejax.masked_loss(x, targets, mask)[0]
  value, gradient = jax.value_and_grad(loss)(logits)
  assert np.isfinite(value) and not np.any(gradient[0, 1])
  assert np.all(gradient[0, 0])
