"""A resume that changes the clipping of gradients."""

import optax
import pytest

from pausejax import cli, optimizer
from tests import toys


def train(workdir, stop_at_step: int, clip_norm: float, *words: str) -> int:
  model = ["num_layers=1", "d_model=16", "num_heads=2"]
  return cli.main(
    [
      *("train", "--config=configs/smoke.py", f"--workdir={workdir}"),
      *(f"--config.model.{word}" for word in model),
      *("--config.data.seq_len=32", "--config.batch_size=8"),
      *("--config.num_steps=6", "--config.eval.every=0"),
      f"--config.stop_at_step={stop_at_step}",
      f"--config.optim.clip_norm={clip_norm}",
      *words,
    ]
  )


@pytest.mark.slow
def test_a_resume_may_begin_and_cease_to_clip(tmp_path):
  for stop_at_step, clip_norm in ((2, 1.0), (4, 0.0), (6, 1.0)):
    assert train(tmp_path / "run", stop_at_step, clip_norm) == 0
  assert toys.last_meta(tmp_path / "run")["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
  ("words", "name"),
  [
    ((), "opt_state/0/0/count"),
    (("--config.optim.pause_only_steps=1",), "opt_state/row/0/0/count"),
  ],
)
def test_a_state_without_a_place_for_clipping_resumes(
  tmp_path, monkeypatch, words, name
):
  assert train(tmp_path / "whole", 4, 0.0, *words) == 0
  with monkeypatch.context() as patch:
    build = lambda *args: optax.chain(optimizer._build(*args))
    patch.setattr(optimizer, "_clipped", build)
    assert train(tmp_path / "run", 2, 0.0, *words) == 0
    assert name in toys.last_meta(tmp_path / "run")["leaves"]
  assert train(tmp_path / "run", 4, 0.0, *words) == 0
  metas = [toys.last_meta(tmp_path / name) for name in ("whole", "run")]
  assert metas[0]["digests"] == metas[1]["digests"]
