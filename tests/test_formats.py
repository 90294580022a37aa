"""Files of older versions are read, files of newer ones refused in a line."""

import json

import pytest

from pausejax import cli, errors, tasks
from pausejax.checkpoints import upgrade
from pausejax.config import default, load_config, saved, train_config
from pausejax.data import tokenizers
from pausejax.data.finetuning import encoded
from pausejax.data.pretraining import prepare, segments
from pausejax.programs import segments as segments_program
from pausejax.programs import study
from pausejax.runtime import run_folder
from pausejax.study import plan


def plain(config) -> dict:
  return json.loads(json.dumps(config.to_dict()))


def old_config(**data) -> dict:
  """The default as a version before 0.2 saved it."""
  tree = plain(default())
  tree["data"]["door"] = tree["data"].pop("pipeline")
  tree["data"] |= data
  return tree


def refused(function, *words) -> None:
  """Calls a function that must end in one line with these words."""
  with pytest.raises(errors.UserError) as raised:
    function()
  message = raised.value.message
  assert "\n" not in message
  assert all(word in message for word in words), message


def newer(path, key="format") -> tuple[str, str]:
  """Makes a JSON file one of the next format; returns what is said of it."""
  tree = json.loads(path.read_text())
  newest = tree[key]
  # It may have other fields, too.
  path.write_text(json.dumps({key: newest + 1, "other": 1}))
  return f"has format {newest + 1}", f"reads formats 1 to {newest}"


def test_a_config_of_an_older_version_is_read_under_new_names(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(old_config(door="seqio")))
  config = load_config(str(path))
  assert config.data.pipeline == "seqio"
  assert {**plain(config), "data": 0} == {**plain(default()), "data": 0}
  # And saved again it is one of this version.
  again = saved.config_to_json(config.to_dict())
  assert saved.current(again, "config.json") == config.to_dict()


def test_a_config_of_a_newer_version_is_refused(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(saved.config_to_json(plain(default()))))
  assert plain(load_config(str(path))) == plain(default())
  refused(lambda: load_config(str(path)), str(path), *newer(path))
  for damaged in ("2", 0, None, True, 1.5, []):
    tree = {**plain(default()), "format": damaged}
    path.write_text(json.dumps(tree))
    refused(lambda: load_config(str(path)), str(path), "format is")


@pytest.mark.parametrize(
  "change", ["--config.data.door=seqio", "--config.data.door=x"]
)
def test_an_old_name_on_the_command_line_names_the_new_one(change, capsys):
  assert cli.main(["train", "--config=smoke", "--workdir=r", change]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "'data.door' is now 'data.pipeline'" in line


def test_an_old_name_in_a_tree_names_the_new_one():
  tree = plain(default())
  tree["data"]["door"] = "seqio"
  refused(lambda: train_config(tree), "'data.door'", "'data.pipeline'")


@pytest.mark.parametrize("format", [1, 2])
def test_meta_of_an_older_version_is_read_under_new_names(format):
  meta = {"config": old_config(), "data": {"door": "segments", "seed": 0}}
  found = upgrade.upgrade(meta, format, "c")
  assert found["config"] == plain(default())
  assert found["data"] == {"pipeline": "segments", "seed": 0}
  # What this version writes is read back as it is.
  run = {"config": plain(default()), "data": found["data"]}
  assert upgrade.upgrade(upgrade.meta_to_json(run), upgrade.FORMAT, "c") == run


def test_the_history_of_settings_survives_a_rename(tmp_path):
  path = tmp_path / run_folder.HISTORY
  path.write_text(json.dumps({"step": 0, "config": old_config()}) + "\n")
  run_folder.History(tmp_path).add(5, default().to_dict(), 0.0)
  assert len(path.read_text().splitlines()) == 1  # The same settings.
  run_folder.History(tmp_path).add(5, {**plain(default()), "seed": 1}, 0.0)
  assert len(path.read_text().splitlines()) == 2
  run_folder.History(tmp_path).add(7, {**plain(default()), "seed": 1}, 0.0)
  assert len(path.read_text().splitlines()) == 2


def test_stores_of_a_newer_version_are_refused(tmp_path, data_config):
  tokenizer = tokenizers.load_tokenizer("bytes")
  (tmp_path / "text").mkdir()
  (tmp_path / "text" / "a.txt").write_text("some words\n" * 40)
  (tmp_path / "text" / "b.txt").write_text("other words\n" * 40)
  out = tmp_path / "segments"
  data = data_config(files=str(tmp_path / "text"), segments_dir=str(out))
  prepare.write_segments(data, tokenizer, out)

  def load():
    return segments.open_segments(out, "train", data, tokenizer)

  load()
  verify = lambda: segments_program.main([f"--verify={out}"])
  assert verify() == 0
  refused(load, str(out), *newer(out / "index.json"))
  refused(verify, str(out), "has format")


def test_a_store_of_examples_of_other_versions(tmp_path, data_config):
  lines = '{"question": "1 + 1?", "answer": "#### 2"}\n' * 25
  (tmp_path / "train.jsonl").write_text(lines)
  data = data_config(task="gsm8k", local_dir=str(tmp_path))
  tokenizer, task = (
    tokenizers.load_tokenizer("bytes"),
    tasks.downstream("gsm8k"),
  )
  out = tmp_path / "store"
  encoded.write_encoded(data, tokenizer, out)

  def load():
    return encoded.open_encoded(str(out), task, "validation", data, tokenizer)

  now = load()
  index = json.loads((out / "index.json").read_text())
  older = json.dumps({**index, "examples_format": 1})
  (out / "index.json").write_text(older)
  assert load() == now
  (out / "index.json").write_text(json.dumps(index))
  verify = lambda: segments_program.main([f"--verify={out}"])
  assert verify() == 0
  refused(load, str(out), *newer(out / "index.json", "examples_format"))
  refused(verify, str(out), "has format")


def test_a_study_of_other_versions(tmp_path):
  tree = load_config("study_smoke").to_dict()
  tree["pretrain_words"] += " --config.data.pipeline=seqio"
  planned = plan.make_plan(tmp_path, tree)
  planned.save()
  path = tmp_path / "study.json"
  now = json.loads(path.read_text())
  assert plan.read_plan(tmp_path) == planned
  older = json.dumps({n: x for n, x in now.items() if n != "format"})
  path.write_text(older.replace("data.pipeline", "data.door"))
  assert plan.read_plan(tmp_path) == planned
  planned.save()  # It is the same study.
  assert json.loads(path.read_text()) == now
  refused(lambda: plan.read_plan(tmp_path), str(path), *newer(path))
  refused(planned.save, str(path), "has format")
  words = ["--config=study_smoke", f"--workdir={tmp_path}", "--dry_run"]
  refused(lambda: study.main(words), str(path), "has format")
