"""JSON of any shape, given to every reader of JSON: one line, no traceback."""

import contextlib
import copy
import json
import pathlib

import pytest
from etils import epath

from pausejax import cli, errors, json_files, tasks
from pausejax.checkpoints import saved_run
from pausejax.config import ModelConfig, default, loader, train_config
from pausejax.data import record_store, tokenizers
from pausejax.data.finetuning import encoded
from pausejax.data.pretraining import prepare, segments
from pausejax.evaluation import results
from pausejax.prompt_pauses import PromptPauses
from pausejax.study import plan as plans
from pausejax.study.report import contents, document
from tests.fuzz import runs

pytestmark = pytest.mark.slow  # Thousands of damaged files.

GARBAGE = [
  None,
  True,
  0,
  7,
  -1.5,
  10**400,
  float("nan"),
  "",
  "x",
  "a\0b",
  "\ud800",
  [],
  [[]],
  [1, "a", None],
  {},
  {"": {"": None}},
]
RAW = [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1,}', b"9" * 5_000]


def damaged(value):
  """Yields copies of a JSON value, each with one field gone or replaced."""
  yield from GARBAGE
  for path in paths(value):
    *parents, last = path
    for put in [*GARBAGE, KeyError]:
      copied = copy.deepcopy(value)
      node = copied
      for key in parents:
        node = node[key]
      if put is KeyError:
        del node[last]
      else:
        node[last] = put
      yield copied


def paths(value, above=()):
  """Yields the path of every field of nested objects and lists."""
  if isinstance(value, dict | list):
    keys = value if isinstance(value, dict) else range(min(len(value), 1))
    for key in keys:
      yield (*above, key)
      yield from paths(value[key], (*above, key))


def refuses_all_damage(path, read, every=1) -> None:
  """Damages a file in every way; each reading works or is one line.

  Of many fields, one in `every` ways of damage: another one for each field.
  """
  whole = path.read_bytes()
  texts = [json.dumps(x).encode() for x in damaged(json.loads(whole))]
  texts = texts[::every]
  refused = 0
  for text in [*RAW, *texts]:
    path.write_bytes(text)
    try:
      read()
    except errors.UserError as e:
      assert "\n" not in e.message
      refused += 1
  path.write_bytes(whole)
  read()
  assert refused > len(RAW)


@pytest.mark.parametrize(
  ("value", "shape", "problem"),
  [
    (3, int, ""),
    (3, float, ""),
    (True, int, "it: expected a whole number, got True"),
    (3.0, int, "it: expected a whole number, got 3.0"),
    (2**64, int, f"it: expected a whole number, got {2**64}, which has more"),
    (-(2**65), float, f"it: expected a number, got {-(2**65)}, which has more"),
    (float("nan"), float, "it: expected a number, got nan"),
    (float("-inf"), float, "it: expected a number, got -inf"),
    (None, (None, str), ""),
    (4, (None, str), "it: expected null or a text, got 4"),
    ({"a": [1, "x"]}, {"a": [int]}, "a[1]: expected a whole number, got 'x'"),
    ({"a": {}}, {"a": {"b": str}}, "a.b is missing"),
    ({"a": {}}, {"a": {"b?": str}}, ""),
    ({"a": {"b": 1}}, {"a": {"b?": str}}, "a.b: expected a text, got 1"),
    ({"x": 1, "y": "2"}, {str: int}, "y: expected a whole number, got '2'"),
    ("abc", [str], "it: expected a list, got 'abc'"),
    ([], {}, "it: expected an object, got []"),
    (object, object, ""),
  ],
)
def test_a_mismatch_names_the_field_and_what_it_should_be(
  value, shape, problem
):
  found = json_files.mismatch(value, shape)
  assert found.removesuffix(" than 64 bits") == problem


def test_a_config(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(default().to_dict()))
  refuses_all_damage(
    path,
    lambda: train_config(loader.load_config(str(path)).to_dict()),
    every=5,
  )


def test_a_config_of_an_older_version_takes_the_defaults(tmp_path, capsys):
  tree = default().to_dict()
  del tree["optim"]["clip_norm"], tree["seed"], tree["log"]
  path = tmp_path / "config.json"
  path.write_text(json.dumps(tree))
  config = loader.load_config(str(path))
  assert config.to_dict() == default().to_dict()
  (line,) = capsys.readouterr().err.splitlines()
  for field in ("optim.clip_norm=1.0", "seed=0", "log.every=1"):
    assert f" {field}" in line


def test_a_field_that_is_off_in_older_configs_says_so(tmp_path, capsys):
  tree = default().to_dict()
  del tree["optim"]["max_skipped_in_a_row"]
  path = tmp_path / "config.json"
  path.write_text(json.dumps(tree))
  loader.load_config(str(path))
  said = capsys.readouterr().err
  assert "existed: optim.max_skipped_in_a_row=0 (never)" in said


@pytest.fixture
def loose_study(tmp_path):
  """A study on disk with one result, as its programs leave it."""
  plan = runs.small_plan(tmp_path)
  workdir = plan.finetuning_cells()[0].workdir
  workdir.mkdir(parents=True)
  config = {"seed": 0, "data": {"task": "stdlib_cloze", "local_dir": ""}}
  (workdir / "config.json").write_text(json.dumps(config))
  row = {"step": 1, "loss": 2.0, "total_tokens": 9, "real_tokens": 9}
  row |= {"tokens_per_second": 5.0, "model_flops_per_second": 10.0}
  lines = json.dumps(row) + "\n" + json.dumps({"step": 1, "eval_loss": 3.0})
  (workdir / "metrics.jsonl").write_text(lines + "\n")
  pauses = PromptPauses(num_pauses=0)
  result = {
    "task": "stdlib_cloze",
    "split": "validation",
    "examples_sha256": "0",
    "num_pauses": 0,
    "position": "append",
    "filler": "<pause>",
    "finetuned": {"num_pauses": 0, "position": "append", "filler": ""},
    "seed": 0,
    "step": 1,
    "n": 2,
    "metrics": {"em": 50.0},
    "pausejax": "0",
  }
  rows = [{"id": "0", "prediction": "a", "values": {"em": 1.0}}]
  rows.append({**rows[0], "id": "1"})
  stem = results.name("stdlib_cloze", "validation", pauses, 1)
  results.write_result(workdir / "evaluations", stem, result, rows)
  return plan


def test_a_plan(loose_study):
  workdir = loose_study.workdir
  refuses_all_damage(
    workdir / "study.json", lambda: plans.read_plan(workdir).save()
  )


def test_a_result_and_its_predictions(loose_study):
  folder = loose_study.finetuning_cells()[0].workdir / "evaluations"
  (path,) = folder.glob("*.json")
  refuses_all_damage(path, lambda: results.read_results(folder))
  (result,) = results.read_results(folder)
  (path,) = folder.glob("*.jsonl")
  path.write_text(path.read_text().splitlines()[0])
  one = {**result, "n": 1}
  refuses_all_damage(path, lambda: results.predictions(one))
  with pytest.raises(errors.UserError, match="1 predictions, its result has 2"):
    results.predictions(result)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"position": "preprend"}, "did you mean 'prepend'"),
    ({"num_pauses": -1}, "num_pauses: must be a finite number at least 0"),
  ],
)
def test_a_result_with_impossible_pauses_names_the_file(
  loose_study, change, message
):
  folder = loose_study.finetuning_cells()[0].workdir / "evaluations"
  (path,) = folder.glob("*.json")
  result = json.loads(path.read_text())
  own = result["finetuned"] | change
  for changed in (result | change, result | {"finetuned": own}):
    path.write_text(json.dumps(changed))
    with pytest.raises(errors.UserError, match=message) as caught:
      results.read_results(folder)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_report_on_a_damaged_run(name, loose_study):
  path = loose_study.finetuning_cells()[0].workdir / name
  whole = path.read_text().splitlines()
  texts = json.loads("".join(whole)) if name == "config.json" else None
  damage = [texts] if texts else [json.loads(line) for line in whole]
  for value in damage:
    for changed in damaged(value):
      path.write_text(json.dumps(changed) + "\n")
      try:
        found = contents.collect(loose_study.workdir)
        document.report_page(found, paper=True)
      except errors.UserError as e:
        assert "\n" not in e.message


@pytest.fixture
def run(tmp_path):
  """The small files of a checkpoint, as far as finding it reads them."""
  tokenizer = tokenizers.load_tokenizer("bytes")
  config = default().to_dict()
  meta = {
    "config": config,
    "model": {"vocab_size": tokenizer.vocab_size, **config["model"]},
    "tokenizer": tokenizer.fingerprint(),
    "pauses_seen": True,
  }
  return json.loads(json.dumps(meta))


def test_checkpoint_metadata(run):
  def refused(meta) -> bool:
    try:
      saved_run.checked(meta)
    except errors.UserError as e:
      assert "\n" not in e.message
      return True
    return False

  assert not refused(run)
  assert sum(map(refused, [*damaged(run)][::5])) > 100
  # Read by `SavedRun.behind_tokens`; absent in imported runs.
  assert not refused({**run, "data": {"pauses_behind_tokens": 5}})
  assert all(refused({**run, "data": x}) for x in (5, "pause_mode", None, []))


def test_a_checkpoint_of_an_older_version_takes_the_defaults(run):
  del run["config"]["finetune"]["hints"], run["model"]["remat"]
  found = saved_run.checked(run)
  assert found["config"]["finetune"]["hints"] is True
  assert found["model"]["remat"] == "names"


def test_stores(tmp_path, data_config):
  (tmp_path / "text.txt").write_text("some words\n" * 40)
  data = data_config(files=str(tmp_path / "text.txt"))
  (tmp_path / "more.txt").write_text("other words\n" * 40)
  data = data_config(files=str(tmp_path), segments_dir=str(tmp_path / "store"))
  tokenizer = tokenizers.load_tokenizer("bytes")
  out = tmp_path / "store"
  prepare.write_segments(data, tokenizer, out)

  def load():
    for split in ("train", "validation"):
      segments.open_segments(epath.Path(out), split, data, tokenizer)
    list(record_store.verify(epath.Path(out)))

  refuses_all_damage(out / "index.json", load)
  refuses_all_damage(
    out / "units" / "store.json",
    lambda: prepare.write_segments(data, tokenizer, out),
  )


def test_a_unit_with_a_damaged_record_is_rebuilt(tmp_path, data_config):
  (tmp_path / "text.jsonl").write_text('{"text": "some words"}\n' * 60)
  data = data_config(files=str(tmp_path / "text.jsonl"))
  tokenizer = tokenizers.load_tokenizer("bytes")
  out = tmp_path / "store"
  index = prepare.write_segments(data, tokenizer, out)
  path = next((out / "units").glob("unit-*.json"))
  whole = path.read_bytes()
  for raw in [*RAW, *(json.dumps(x).encode() for x in damaged({"key": 1}))]:
    path.write_bytes(raw)
    assert prepare.write_segments(data, tokenizer, out) == index
    assert path.read_bytes() == whole
  note = json.loads(whole)
  for field in note:
    for put in GARBAGE:
      path.write_text(json.dumps({**note, field: put}))
      with contextlib.suppress(errors.UserError):
        prepare.write_segments(data, tokenizer, out)


def test_a_store_of_examples(tmp_path, data_config):
  lines = '{"question": "1 + 1?", "answer": "#### 2"}\n' * 25
  (tmp_path / "train.jsonl").write_text(lines)
  data = data_config(task="gsm8k", local_dir=str(tmp_path))
  tokenizer = tokenizers.load_tokenizer("bytes")
  task = tasks.downstream("gsm8k")
  out = tmp_path / "store"
  encoded.write_encoded(data, tokenizer, out)
  refuses_all_damage(
    out / "index.json",
    lambda: encoded.open_encoded(str(out), task, "validation", data, tokenizer),
  )


@pytest.mark.parametrize("raw", [*RAW, b"[]", b"3", b"null", b'"x"'])
def test_verbs_end_with_one_line(raw, loose_study, capsys):
  workdir = loose_study.workdir
  (workdir / "study.json").write_bytes(raw)
  assert cli.main(["report", str(workdir)]) == 1
  config = workdir / "config.json"
  config.write_bytes(raw)
  for verb in ("train", "study"):
    argv = [verb, f"--config={config}", f"--workdir={workdir / 'new'}"]
    assert cli.main(argv) == 2
  assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("name", tasks.downstream_names())
def test_predictions_of_another_shape(name):
  task = tasks.downstream(name)
  records = [{}, {"id": "x"}, {"id": 1, "turn_id": []}, {"paragraphs": 3}]
  for value in [*GARBAGE, *records, records, {"data": records}, {"0": None}]:
    with contextlib.suppress(errors.UserError):
      task.read_predictions(value)


@pytest.mark.parametrize("suffix", [".json", ".model"])
def test_tokenizers_of_another_shape(suffix, tmp_path):
  path = tmp_path / f"tokenizer{suffix}"
  for raw in [*RAW, b"\x00" * 100, *(json.dumps(x).encode() for x in GARBAGE)]:
    path.write_bytes(raw)
    with pytest.raises(errors.UserError):
      tokenizers.load_tokenizer(str(path))


@pytest.mark.parametrize("seen", [False, True])
def test_pauses_the_model_was_not_trained_with_are_reported_once(
  run, seen, capsys
):
  tokenizer = tokenizers.load_tokenizer("bytes")
  meta = saved_run.checked({**run, "pauses_seen": seen})
  model = ModelConfig(**meta["model"])
  found = saved_run.SavedRun(
    pathlib.Path("w"), 5, meta, tokenizer, "bytes", model
  )
  found.warn_of_pauses(0)
  assert capsys.readouterr().err == ""
  found.warn_of_pauses(10)
  said = capsys.readouterr().err.splitlines()
  assert len(said) == (not seen)
  assert seen or ("not trained on <pause>" in said[0] and "10" in said[0])
