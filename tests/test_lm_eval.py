"""lm-evaluation-harness: the tasks, the model and the command.

Tests of the harness itself need the extra "lm-eval"; those that compare with
transformers need torch and transformers, too.
"""

import json
import pathlib
import sys

import pytest
import yaml

from pausejax import cli, tasks
from pausejax.checkpoints import saved_run
from pausejax.data.finetuning import examples, prompts
from pausejax.inference import loaded
from pausejax.prompt_pauses import PromptPauses
from tests import runs, task_samples
from tests.test_messages import refused

TASKS = pathlib.Path(cli.__file__).parent / "interop" / "lm_eval_tasks"
NINE = sorted(task_samples.FILES)


def published(folder: pathlib.Path) -> str:
  """Writes small files of the nine tasks in their published formats."""
  for name, splits in task_samples.FILES.items():
    (folder / name).mkdir()
    for files in splits.values():
      task_samples.write(folder / name, files)
  return str(folder)


class _Loader(yaml.SafeLoader):
  """Reads `!function NAME` as NAME."""


_Loader.add_constructor("!function", lambda loader, node: node.value)


def config(name: str) -> dict:
  """The YAML file of a task with what it includes."""
  own = yaml.load((TASKS / name).read_text(), _Loader)
  base = config(own["include"]) if "include" in own else {}
  return base | own


def test_every_task_of_the_paper_has_a_file_that_agrees_with_it():
  names = {path.stem for path in TASKS.glob("*.yaml")}
  assert names == {f"pausejax_{n}" for n in [*NINE, "lambada_perplexity"]}
  for name in NINE:
    task, values = tasks.downstream(name), config(f"pausejax_{name}.yaml")
    assert values["task"] == f"pausejax_{name}"
    assert values["dataset_kwargs"] == {"task": name}
    metrics = [row["metric"] for row in values["metric_list"]]
    if task.kind == "decode":
      limits = values["generation_kwargs"]
      assert limits["max_gen_toks"] == task.max_target_len
      assert limits["until"] == ([task.stop] if task.stop else [])
      assert metrics == list(task.metrics)
    else:
      assert values["target_delimiter"] == task.delimiter
      assert metrics == ["accuracy", "accuracy_per_character"]


def test_without_lm_eval_one_line_names_the_extra(tmp_path, capfd, monkeypatch):
  run = runs.save_run(tmp_path / "run")
  monkeypatch.setitem(sys.modules, "lm_eval", None)
  monkeypatch.delitem(sys.modules, "pausejax.interop.lm_eval", raising=False)
  argv = ["lm-eval", f"--checkpoint={run}", "--tasks=pausejax"]
  assert "pip install 'pausejax[lm-eval]'" in refused(argv, capfd, 1)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--checkpoint=run", "--model=hf"], "--model is set by --checkpoint"),
    (["--checkpoint=run", "--num_pause=3"], "did you mean --num_pauses?"),
    (
      ["--checkpoint", "run", "--position=middle"],
      "known: append, both",
    ),
    (["--checkpoint=none"], "no folder 'none'"),
    (["--tasks=pausejax"], "--checkpoint"),
  ],
)
def test_a_wrong_command_line_is_refused_first(words, message, capfd):
  assert message in refused(["lm-eval", *words], capfd)


@pytest.fixture(scope="module")
def harness():
  pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
  from pausejax.interop import lm_eval

  return lm_eval


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return published(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "random"
  return runs.save_run(folder, max_seq_len=768)


@pytest.fixture(scope="module")
def results(harness, data, run):
  """The harness' results of the nine tasks, with 3 pauses."""
  return evaluate(harness, run, data, "pausejax", num_pauses=3)


def evaluate(harness, run, data, *names, use_cache=None, **settings):
  import lm_eval
  from lm_eval.tasks import TaskManager

  manager = TaskManager(
    include_path=str(harness.TASKS),
    include_defaults=False,
    metadata={"local_dir": data},
  )
  found = lm_eval.simple_evaluate(
    model=harness.PauseJaxLM(run, batch_size=8, **settings),
    tasks=[*names],
    task_manager=manager,
    use_cache=use_cache,
    bootstrap_iters=10,
  )
  assert found is not None
  return found


def answers(run, data, name, num_pauses):
  """The answers of `pausejax evaluate`."""
  import jax

  from pausejax import sharding
  from pausejax.config import DataConfig
  from pausejax.evaluation.answers import Predictor

  task, of_run = tasks.downstream(name), loaded.load(run)
  folder = examples.folder_of(data, name)
  split = examples.scoring_split(task)
  rows = examples.read_split(task, split, DataConfig(local_dir=folder)).rows
  predictor = Predictor(
    format=prompts.Format(
      task, of_run.tokenizer, PromptPauses(num_pauses=num_pauses)
    ),
    tokenizer=of_run.tokenizer,
    batch_size=8,
  )
  with jax.set_mesh(sharding.data_mesh()):
    return rows, predictor.answer(of_run.model, rows, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", NINE)
def test_prompts_answers_and_metrics_are_those_of_evaluate(
  name, results, data, run
):
  rows, expected = answers(run, data, name, num_pauses=3)
  samples = results["samples"][f"pausejax_{name}"]
  assert len(samples) == len(rows)
  for row, answer, sample in zip(rows, expected.rows, samples, strict=True):
    assert sample["doc"]["id"] == row.id
    assert {prompt for prompt, _ in sample["arguments"]} == {row.prefix}
    if row.options:
      nats = [resps[0][0] for resps in sample["resps"]]
      assert nats == pytest.approx(answer["log_likelihoods"], abs=1e-3)
      assert sample["doc"]["label"] == row.label
    else:
      assert sample["doc"]["references"] == list(row.references)
      assert sample["resps"][0][0].strip() == answer["prediction"]
  for metric, percent in expected.metrics.items():
    if metric == "accuracy_per_token":
      continue
    task = f"pausejax_{name}" + "_perplexity" * (metric == "perplexity")
    scale = 1 if metric == "perplexity" else 100
    value = scale * results["results"][task][f"{metric},none"]
    assert value == pytest.approx(percent, rel=1e-3), metric


@pytest.mark.parametrize("name", NINE)
def test_values_of_given_answers(name, harness, data):
  from pausejax.interop.lm_eval_tasks import functions

  (split,) = functions.dataset(name, data).values()
  task = tasks.downstream(name)
  for doc in split:
    if task.kind == "options":
      places = range(len(doc["options"]))
      right = [(float(i == doc["label"]), False) for i in places]
      assert set(functions.option_values(doc, right).values()) == {1.0}
      wrong = [(-n, False) for n, _ in right]
      assert functions.option_values(doc, wrong)["accuracy"] == 0.0
      continue
    for text in (f" {doc['target']} ", doc["references"][-1], "nothing"):
      assert functions.answer_values(doc, [text]) == {
        metric: value(text.strip(), doc["references"])
        for metric, value in task.metrics.items()
      }


@pytest.mark.slow
def test_results_name_the_model(results, run):
  info = results["config"]
  assert info["checkpoint"] == str(pathlib.Path(run))
  assert (info["num_pauses"], info["position"]) == (3, "append")
  assert (info["filler"], info["step"], info["num_truncated"]) == (
    "<pause>",
    0,
    0,
  )


@pytest.mark.slow
def test_the_cache_keeps_conditions_apart(harness, data, run, tmp_path):
  cache = str(tmp_path / "answers")
  task = "pausejax_lambada_perplexity"

  def value(**settings):
    found = evaluate(harness, run, data, task, use_cache=cache, **settings)
    return found["results"][task]["perplexity,none"]

  plain = value(), value(num_pauses=3), value(num_pauses=3, position="prepend")
  assert len({*plain}) == 3
  model = harness.PauseJaxLM
  original, model._run = model._run, None  # Fails if a request is run again.
  try:
    again = (
      value(),
      value(num_pauses=3),
      value(num_pauses=3, position="prepend"),
    )
  finally:
    model._run = original
  assert again == plain


@pytest.mark.slow
def test_rolling_needs_no_pauses(harness, run):
  from lm_eval.api.instance import Instance

  from pausejax import errors

  def rolling(text, **settings):
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    model = harness.PauseJaxLM(run, batch_size=8, **settings)
    return model.loglikelihood_rolling([request])[0]

  with pytest.raises(errors.UsageError, match="rolling"):
    rolling("abc", num_pauses=3)
  # 31 ids with BOS: in windows of 16, and in one.
  assert rolling("abc" * 10, max_length=16) < 0 > rolling("abc" * 10)


@pytest.mark.slow
def test_pauses_behind_tokens_are_those_of_the_run(harness, tmp_path):
  from lm_eval.api.instance import Instance

  pauses = {"pause_mode": "every_token", "pause_run_length": 2.0}
  run = runs.save_run(tmp_path / "run", pauses=pauses, max_seq_len=192)
  model = harness.PauseJaxLM(run, batch_size=8)
  direct = loaded.LoadedRun(saved_run.find_run(run))
  assert model.get_model_info()["pauses_behind_tokens"] == 2

  def ask(kind, *args):
    return getattr(model, kind)([Instance(kind, {}, args, 0)])[0]

  def nats(prefix, text):
    return pytest.approx(direct.log_likelihoods([prefix], [[text]])[0][0], 1e-4)

  assert ask("loglikelihood", "It is", " a dog")[0] == nats("It is", " a dog")
  limits = {"until": [], "max_gen_toks": 9}
  answer = ask("generate_until", "It is", limits)
  assert answer == direct.generate(["It is"], max_new_tokens=9)[0]
  text = "abc" * 10
  whole = ask("loglikelihood_rolling", text)
  assert whole == nats("", text)
  assert ask("loglikelihood_rolling", text * 5) < whole  # In windows.
  model = harness.PauseJaxLM(run, batch_size=8, add_bos_token=False)
  blank = ask("loglikelihood", "", " a dog")  # Of BOS, without a text.
  assert ask("loglikelihood", " ", "a dog") == blank


@pytest.mark.slow
def test_the_command_writes_results(harness, data, run, tmp_path, capfd):
  argv = ["lm-eval", f"--checkpoint={run}", "--num_pauses", "2"]
  argv += ["--tasks=pausejax_piqa,pausejax_squad", "--output_path"]
  argv += [str(tmp_path / "out"), "--local_dir", data, "--batch_size=3"]
  assert cli.main(argv) == 0
  out, _ = capfd.readouterr()
  assert "pausejax_piqa" in out and "accuracy_per_character" in out
  (path,) = (tmp_path / "out" / "random-step0-append2").glob("results_*.json")
  found = json.loads(path.read_text())
  assert found["config"]["num_pauses"] == 2
  assert found["results"].keys() == {"pausejax_piqa", "pausejax_squad"}
  assert found["results"]["pausejax_squad"]["f1,none"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--tasks=pausejax_squat"], "Tasks not found: pausejax_squat"),
    (["--tasks=pausejax_squad", "--device=cpu"], "JAX_PLATFORMS"),
    (["--tasks=pausejax_squad", "--batch_size=auto"], "batch_size"),
    (["--tasks=pausejax_squad", "--gen_kwargs", "temperature=0.5"], "greedily"),
    (["--tasks=pausejax_squad", "--local_dir=none"], "no folder"),
  ],
)
def test_the_harness_errors_are_one_line(
  words, message, harness, data, run, capfd
):
  argv = ["lm-eval", f"--checkpoint={run}", f"--local_dir={data}"]
  argv = [
    a for a in argv if a.split("=")[0] not in [w.split("=")[0] for w in words]
  ]
  assert cli.main([*argv, *words]) in (1, 2)
  _, err = capfd.readouterr()
  (line,) = [x for x in err.splitlines() if x.startswith("pausejax: ")][-1:]
  assert message in line and "Traceback" not in err
