"""What costs nothing is checked before data is prepared or a folder is made."""

import pathlib

import pytest

import configs
from pausejax import cli

SMOKE = pathlib.Path(configs.__file__).parent / "smoke.py"


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (["mesh.fsdp=3"], "mesh: data -1 x fsdp 3"),
    (["batch_size=12"], "batch_size / optim.num_microbatches 12"),
    (["optim.num_microbatches=4"], "batch_size / optim.num_microbatches 4"),
    (["mesh.tensor=8", "mesh.data=1"], "model.num_heads 4 is not divisible"),
    (["optim.name=adamx"], "did you mean 'adamax'?"),
    (["optim.kwargs.b3=1"], "optax.adamw takes no 'b3'"),
    (["optim.schedule=wsd", "optim.decay_steps=500"], "optim.decay_steps 500"),
    (["model.attention=splash"], "it needs a TPU"),
    (["model.attention=cudnn"], "model.attention 'cudnn'"),
    (["data.tokenizer=none.model"], "data.tokenizer: no file"),
    (["tasks_module=no_such_module"], "importing 'no_such_module' failed"),
    (["eval.batch_size=12", "eval.num_examples=4"], "eval.batch_size 12"),
  ],
)
def test_training_refuses_before_it_prepares(changes, words, tmp_path, capfd):
  argv = ["train", f"--config={SMOKE}", f"--workdir={tmp_path / 'run'}"]
  assert cli.main([*argv, *(f"--config.{c}" for c in changes)]) in (1, 2)
  out, err = capfd.readouterr()
  assert words in err and len(err.splitlines()) == 1
  assert "preparing" not in out
  assert not (tmp_path / "run").exists()


def test_training_refuses_a_workdir_that_is_a_file(tmp_path, capfd):
  (tmp_path / "run").touch()
  argv = ["train", f"--config={SMOKE}", f"--workdir={tmp_path / 'run'}"]
  assert cli.main(argv) == 1
  out, err = capfd.readouterr()
  assert "--workdir: cannot write" in err and "preparing" not in out
