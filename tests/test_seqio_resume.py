"""A stream of SeqIO continues with the same batches in another process."""

import json
import pathlib
import subprocess
import sys

import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import (  # noqa: E402
  data_config,
  digest,
  message,
  open_stream,
  task_of,
)

# Fixtures that several test files share.
bpe = seqio_streams.bpe
folder = seqio_streams.folder
tfds_dir = seqio_streams.tfds_dir


RESUME = """
import json, pathlib, sys  # noqa: E402
sys.path.insert(0, {tests!r})
import seqio_streams as t  # noqa: E402
out = {{}}
for name, data in json.loads(pathlib.Path({plan!r}).read_text()).items():
  folder = pathlib.Path({plan!r}).parent / name
  state = {{f.name: f.read_bytes() for f in folder.iterdir()}}
  batches = t.open_stream(t.data_config(**data), task=t.task_of(data))
  batches.restore(state)
  out[name] = [t.digest(next(batches)) for _ in range(30)]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_a_new_process_continues_bit_for_bit(folder, tfds_dir, bpe, tmp_path):
  plan = {
    "files": {"files": folder, "tokenizer": bpe, "pause_mode": "exact"},
    "tfds": {"tfds_name": "tiny:1.0.0", "tfds_data_dir": tfds_dir},
  }
  (tmp_path / "plan.json").write_text(json.dumps(plan))
  expected = {}
  for name, data in plan.items():
    batches = open_stream(data_config(**data), task=task_of(data))
    for _ in range(83):  # Epochs are 9 to 35 batches long.
      next(batches)
    (tmp_path / name).mkdir()
    for file, content in batches.state().items():
      (tmp_path / name / file).write_bytes(content)
    expected[name] = [digest(next(batches)) for _ in range(30)]
    assert len(set(expected[name])) == 30
  script = RESUME.format(
    tests=str(pathlib.Path(__file__).parent), plan=str(tmp_path / "plan.json")
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "python", "tfds"])
def test_a_resumed_run_can_be_resumed_again(folder, tfds_dir, kind):
  data = {
    "files": {"files": folder},
    "python": {},
    "tfds": {"tfds_name": "tiny:1.0.0", "tfds_data_dir": tfds_dir},
  }[kind]
  batches = open_stream(data_config(**data), task=task_of(data))
  start = batches.state()
  first = [digest(next(batches)) for _ in range(35)]
  batches.restore(start)
  for taken in (0, 7, 21):
    num_batches = 14 if taken else 7
    got = [digest(next(batches)) for _ in range(num_batches)]
    assert got == first[taken : taken + num_batches]
    state = batches.state()
    next(batches)
    batches.restore(state)


def test_a_broken_state_is_a_one_line_error(folder):
  batches = open_stream(data_config(files=folder))
  state = batches.state()
  assert "cannot be restored" in message(batches.restore, {})
  broken = {name: content[:-9] for name, content in state.items()}
  assert "cannot be restored" in message(batches.restore, broken)
