"""model.dtype: auto by device; bfloat16 on CPUs without instructions for it.

The processes here are limited to AVX2, as most laptops are.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pausejax import sharding
from pausejax.model import attention as attentions
from pausejax.model import products
from tests import models, processes

# One step of training, 3 ids and 2 options, all in bfloat16, of a variant.
COMPUTE = """
import functools, sys
import jax, numpy as np
from pausejax import optimizer
from pausejax.config import LossConfig, OptimConfig, default
from pausejax.inference import decode, score
from pausejax.training import step
from tests import models

loss = default().loss.to_dict() | {"num_chunks": 2}
optim = default().optim.to_dict()
made, schedule = optimizer.make_optimizer(OptimConfig(**optim), 10)
train_step = functools.partial(
  step.train_step, optimizer=made, schedule=schedule,
  loss=LossConfig(**loss), num_microbatches=1,
  pause_id=models.PAUSE_ID,
)
for name in sys.argv[1:]:
  fields = models.VARIANTS[name] | {"dtype": "bfloat16"}
  state = models.train_state(made, **fields)
  _, metrics = jax.jit(train_step)(state, models.batch())
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
  model, ids = models.model(**fields), np.full((2, 8), 5, np.int32)
  real = np.ones((2, 8), bool)
  decode.generate(
    model, ids, real, real, jax.random.key(0), num_new=3, temperature=0.0,
    top_k=0, top_p=1.0, eos_id=1, pause_id=models.PAUSE_ID,
  ).block_until_ready()
  scores, _ = score.score_options(
    model, ids, real, real, ids.reshape(2, 2, 4), np.full((2, 2), 4),
    pause_id=models.PAUSE_ID,
  )
  assert np.isfinite(scores).all()
"""


def run(*command: str) -> str:
  """Runs a command on a CPU without AVX-512; returns what it printed."""
  env = processes.environment(0, 1, 0, devices=1)
  env["XLA_FLAGS"] = "--xla_cpu_max_isa=AVX2"  # With XLA's newest code.
  done = subprocess.run(
    [sys.executable, *command],
    cwd=processes.ROOT,
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.mark.parametrize(
  ("kind", "wanted"),
  [
    ("TPU v5 lite", "bfloat16"),
    ("NVIDIA H100 80GB HBM3", "bfloat16"),
    ("cpu", "float32"),
  ],
)
def test_auto_follows_the_devices_in_scope_even_abstract_ones(kind, wanted):
  platform = kind.split()[0].lower()
  device = AbstractDevice(kind, None, platform)
  mesh = AbstractMesh((1,), ("data",), abstract_device=device)
  with use_abstract_mesh(mesh):
    assert products.compute_dtype("auto") == wanted
    assert products.compute_dtype("bfloat16") == "bfloat16"
  assert products.compute_dtype("auto") == "float32"  # The CPU of the tests.


@pytest.mark.parametrize(
  ("kind", "platform", "attention"),
  [
    ("TPU v5 lite", "tpu", "splash"),
    # cuDNN's kernel is not compiled for a GPU that is not there.
    ("NVIDIA H100 80GB HBM3", "gpu", "xla"),
    ("cpu", "cpu", "xla"),
  ],
)
def test_the_platform_is_that_of_the_devices_in_scope(
  kind, platform, attention
):
  device = AbstractDevice(kind, None, platform)
  mesh = AbstractMesh((1,), ("data",), abstract_device=device)
  queries_BTNH = jax.ShapeDtypeStruct((1, 256, 4, 64), jnp.bfloat16)
  with use_abstract_mesh(mesh):
    assert sharding.platform() == platform
    assert attentions._fastest(queries_BTNH, None, None) == attention
  assert sharding.platform() == "cpu"


def test_a_model_with_auto_uses_the_dtype_of_its_device():
  batch = models.batch(batch_size=1)
  fields = ("positions", "segment_ids")
  args = {f"{name}_BT": batch[name] for name in fields}
  vectors = [
    jax.jit(models.model(dtype=dtype).__call__)(batch["tokens"], **args)
    for dtype in ("auto", "float32")
  ]
  assert vectors[0].dtype == jnp.float32
  assert (vectors[0] == vectors[1]).all()


@pytest.mark.slow
def test_bfloat16_computes_on_a_cpu_without_avx512():
  run("-c", COMPUTE, *models.VARIANTS)


@pytest.mark.slow
def test_published_configs_run_on_a_cpu_without_avx512(tmp_path):
  text = [{"text": f"{i} " + "the sum of all. " * 20} for i in range(40)]
  lines = "".join(json.dumps(row) + "\n" for row in text)
  (tmp_path / "c4.jsonl").write_text(lines)
  questions = [
    {"utterance": f"{i}?", "targetValue": f"(list (description {i}))"}
    for i in range(9)
  ]
  for split in ("train", "test"):
    (tmp_path / f"{split}.json").write_text(json.dumps(questions))
  common = ("num_steps=2", "batch_size=4", "eval.num_batches=1")
  shape = ("num_layers=2", "d_model=32", "num_heads=2")
  small = [f"--config.{field}" for field in (*common, "data.seq_len=128")]
  small += [f"--config.model.{field}" for field in shape]

  def pretrain(dtype: str) -> list[str]:
    return [
      "train",
      "--config=configs/pretrain_c4.py",
      f"--config.data.files={tmp_path}/c4.jsonl",
      f"--config.model.dtype={dtype}",
      f"--workdir={tmp_path}/{dtype}",
      *small,
    ]

  finetune = [
    "train",
    "--config=configs/finetune.py:task=web_questions,pauses=2",
    f"--config.data.local_dir={tmp_path}",
    f"--init_from={tmp_path}/bfloat16",
    f"--workdir={tmp_path}/fine",
    "--config.eval.num_examples=2",
    *(f"--config.{field}" for field in common),
  ]
  generate = [
    "generate",
    f"--checkpoint={tmp_path}/bfloat16",
    "--prompt=A",
    "--max_new_tokens=3",
  ]
  evaluate = ["evaluate", f"--checkpoint={tmp_path}/fine", "--limit=2"]
  verbs = [pretrain("auto"), pretrain("bfloat16"), finetune, generate, evaluate]
  code = "from pausejax import cli\nfor verb in " + repr(verbs) + ":\n"
  out = run("-c", code + "  assert cli.main(verb) == 0, verb")
  assert out.count("computing in float32") == 2  # auto, and finetune.py's auto.
  assert out.count("computing in bfloat16") == 1
