"""What preparation and `tasks list` say about the data that they read."""

import json

import pytest

from pausejax import cli


@pytest.mark.parametrize(("count", "warns"), [(2, True), (40, False)])
def test_the_share_is_printed(count, warns, tmp_path, capfd):
  for i in range(count):
    (tmp_path / f"{i:02}.txt").write_text("Some words. " * 50)
  argv = ["segments", "--config=smoke", "--config.data.task=text"]
  argv += [f"--config.data.files={tmp_path}", f"--out={tmp_path / 'out'}"]
  assert cli.main([*argv, "--config.data.seq_len=64"]) == 0
  out = capfd.readouterr().out
  held_out = 1 if count == 2 else 2
  assert f"held out: {held_out} of {count} documents, " in out
  assert ("(50.0%)" in out) == warns
  assert ("warning: more than 10% of the text is held out" in out) == warns


def test_the_files_of_another_task_are_missing_not_damaged(tmp_path, capfd):
  document = {"data": [{"title": "t", "paragraphs": []}]}
  question = {"id": "1", "question": "Who?"}
  question["answers"] = [{"text": "He", "answer_start": 0}]
  paragraph = {"context": "He did it.", "qas": [question]}
  document["data"][0]["paragraphs"] = [paragraph]
  for name in ("train-v1.1.json", "dev-v1.1.json"):
    (tmp_path / name).write_text(json.dumps(document))
  assert cli.main(["tasks", "list", f"--local_dir={tmp_path}"]) == 0
  lines = capfd.readouterr().out.splitlines()
  (web_questions,) = [x for x in lines if x.startswith("web_questions")]
  assert "train missing" in web_questions
  assert not any("unreadable" in line for line in lines)
  (tmp_path / "train-v1.1.json").write_text("{")
  assert cli.main(["tasks", "list", f"--local_dir={tmp_path}"]) == 0
  assert "unreadable" in capfd.readouterr().out
