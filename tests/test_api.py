"""The Python API: every example in its docstrings runs, and what is refused."""

import ast
import contextlib
import doctest
import functools
import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def one_line(words: str) -> Iterator[None]:
  """Expects a UsageError whose message has one line with the words."""
  with pytest.raises(errors.UsageError, match=words) as e:
    yield
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "name", ["insert_pauses", "remove_pauses", "make_batch", "masked_loss"]
)
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
  numbers = {"num_pauses": np.int32(3), "max_new_tokens": np.int64(5)}
  numbers |= {"top_k": np.int8(0), "seed": np.uint8(0)}
  numbers |= {"temperature": np.float32(0), "top_p": np.float16(1)}
  assert run.generate("A way", **numbers) == both[1:]


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
    (lambda run: run.logits([[0] * 10**4]), "10000 positions, the model has"),
    (lambda run: run.logits([[[0]]]), r"\[T\] or \[B, T\], got int64"),
    (lambda run: run.logits([[0], [0, 1]]), "whole numbers"),
    (lambda run: run.logits(None), "whole numbers .*, got None"),
    (lambda run: run.generate(["\ud800"]), "surrogate"),
    (lambda run: run.generate(None), "prompts: expected a list, got None"),
    (lambda run: run.generate([3]), "at least one text"),
    (lambda run: run.generate("a", num_pauses=1.5), "num_pauses.* whole"),
    (lambda run: run.generate("a", num_pauses=10**30), "lower one of them"),
    (lambda run: run.generate("a", max_new_tokens=2.0), "max_new_tokens.* wh"),
    (lambda run: run.generate("a", top_k=1.5), "top_k: .* whole"),
    (lambda run: run.generate("a", seed=1.5), "seed: .* whole"),
    (lambda run: run.log_likelihoods(["a"], None), "options: expected a list"),
    (lambda run: run.log_likelihoods(["a"], [3]), r"options\[0\]: expected"),
    (lambda run: run.log_likelihoods(["a"], [["\udc80"]]), "surrogate"),
  ],
)
def test_requests_that_a_run_cannot_serve_end_in_one_line(
  place, question, words
):
  run = loaded.load(place / "run")
  with one_line(words):
    question(run)


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
    ({"tokens": [1, 11], "num_pause_ids": 3}, "hold pause_id 11"),
    ({"num_pause_ids": 0}, "num_pause_ids: must be"),
    ({"num_pause_ids": 1.0}, "num_pause_ids: must be a whole number"),
    (
      {"tokens": np.uint64([1]), "pause_id": 2**63},
      r"pause_id: must be .* from 0 to 2\*\*63 - 1",
    ),
    (
      {"tokens": np.uint8([1]), "pause_id": 254, "num_pause_ids": 3},
      "from 0 to 253, got 254",
    ),
    ({"pause_fraction": 1.0}, "pause_fraction"),
    ({"mode": "x"}, "insert_trim"),
    ({"first_position": -1}, "first_position"),
    ({"first_position": 0.5}, "first_position: must be a whole number"),
    ({"first_position": 10**30}, r"from 0 to 2\*\*63 - 1"),
    ({"tokens": [[1, 2], [3]]}, r"tokens: .* \[B, T\]"),
    ({"tokens": [-5]}, "from 0 to"),
    ({"tokens": None}, "got None"),
    ({"pause_id": 9.5}, "pause_id: must be a whole number, got 9.5"),
    ({"pause_id": "x"}, "whole number, got 'x'"),
    ({"pause_id": True}, "whole number, got True"),
    ({"pause_id": -1}, "pause_id: .* from 0 to"),
    ({"tokens": np.uint8([1]), "pause_id": 300}, "from 0 to 255, got 300"),
    ({"seed": 1.5}, "seed: must be a whole number, got 1.5"),
    ({"seed": None}, "seed: must be a whole number, got None"),
    ({"pause_fraction": "x"}, "pause_fraction"),
  ],
)
def test_pauses_that_cannot_be_inserted(arguments, words):
  with one_line(words):
    pausejax.insert_pauses(**{"tokens": [1, 2], "pause_id": 9, **arguments})


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"rows": []}, "rows: give at least one"),
    ({"rows": [[]]}, r"rows\[0\]: expected whole numbers"),
    ({"rows": [[1] * 5]}, "seq_len is 4"),
    ({"rows": [[1], [1.7, 2]]}, r"rows\[1\]: expected whole numbers"),
    ({"rows": [[-5]]}, "from 0 to .*, got -5"),
    ({"rows": [[2**40]]}, r"from 0 to 2\*\*31 - 1, got 1099511627776"),
    ({"rows": ["ab"]}, r"rows\[0\]: .* got 'ab'"),
    ({"rows": [1, 2]}, r"rows\[0\]: .* got 1"),
    ({"rows": None}, "rows: expected a list, got None"),
    ({"seq_len": 2.0}, "seq_len: must be a whole number, got 2.0"),
    ({"seq_len": -1}, "seq_len: .* from 0 to"),
    ({"bos_id": None}, "bos_id: must be a whole number"),
    ({"pad_id": -1}, "pad_id: .* from 0 to"),
    ({"pause_id": 2**31}, r"pause_id: .* from 0 to 2\*\*31 - 1"),
    ({"num_pause_ids": -1}, "num_pause_ids: .* from 1 to"),
    ({"pause_id": 2**31 - 2, "num_pause_ids": 3}, "from 0 to 2147483645"),
  ],
)
def test_batches_that_cannot_be_made(arguments, words):
  good = {"rows": [[1]], "bos_id": 1, "pad_id": 0, "pause_id": 9, "seq_len": 4}
  with one_line(words):
    pausejax.make_batch(**{**good, **arguments})


LOGITS, TARGETS = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.int32)
MASK = np.ones((2, 3), bool)


@pytest.mark.parametrize(
  ("function", "arguments", "words"),
  [
    ("remove_pauses", ([[1, 99]], 99), r"tokens: .* \[T\], got int64 \[1, 2\]"),
    ("remove_pauses", ([1.5], 99), "tokens: expected whole numbers"),
    ("remove_pauses", ([1], 9.5), "pause_id: must be a whole number"),
    ("remove_pauses", ([1], 9, 0), "num_pause_ids: must be"),
    ("load", (None,), "workdir: expected a path, got None"),
    ("load", (3,), "workdir: expected a path, got 3"),
    ("load", (".", 1.5), "step: must be a whole number, got 1.5"),
    ("read_metrics", (None,), "workdir: expected a path, got None"),
    ("read_metrics", ("a\0",), "workdir: expected a path"),
    ("train", ({}, None), "workdir: expected a path, got None"),
    ("train", ({1: 2}, "."), "unknown field '1'"),
    ("train", ({"num_steps": 1}, "."), "the field .* is missing"),
    ("masked_loss", (LOGITS, TARGETS, MASK * 1.0), "loss_mask: .* bool"),
    ("masked_loss", (LOGITS, LOGITS[..., 0], MASK), "targets: .* int"),
    ("masked_loss", ([[0.0]], TARGETS, MASK), "logits: .* got list"),
    ("masked_loss", (LOGITS, TARGETS, MASK[0]), r"loss_mask .* \[3\]"),
  ],
)
def test_arguments_of_another_kind_end_in_one_line(function, arguments, words):
  with one_line(words):
    getattr(pausejax, function)(*arguments)


@pytest.mark.parametrize("num_pauses", [1.5, "2", None, -1])
def test_a_number_of_pauses_is_a_whole_number(num_pauses):
  with one_line("num_pauses: must be"):
    pausejax.PromptPauses(num_pauses=num_pauses)


def test_numbers_of_numpy_are_numbers():
  pauses = pausejax.PromptPauses(num_pauses=np.int64(2))  # pyright: ignore
  assert json.dumps(pauses.condition())
  found = [
    pausejax.insert_pauses(
      [5, 6], pause_id=kind(9), seed=kind(1), pause_fraction=half
    )
    for kind, half in (
      (int, 0.5),
      (np.uint8, np.float32(0.5)),
      (np.int64, np.float16(0.5)),
    )
  ]
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[0], found[2])


def test_pauses_are_removed_from_lists_and_from_nothing():
  assert pausejax.remove_pauses([1, 99, 2], pause_id=99).tolist() == [1, 2]
  empty = pausejax.remove_pauses([], pause_id=99)
  assert empty.shape == (0,) and empty.dtype.kind == "i"


@pytest.mark.parametrize("target", [-1, 4])
def test_a_counted_target_outside_the_vocabulary_makes_the_loss_nan(target):
  targets = np.full((2, 3), target)
  assert np.isnan(pausejax.masked_loss(LOGITS, targets, MASK)[0])
  assert pausejax.masked_loss(LOGITS, targets, ~MASK)[0] == 0


def test_dir_lists_the_public_names():
  assert {*dir(pausejax)} == {*pausejax.__all__, "__version__", "config"}


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
