"""On an NVIDIA GPU: cuDNN's attention, CPU results, exact resume, answers.

  PAUSEJAX_TEST_GPU=1 python -m pytest -n 0 tests/test_gpu.py

Skipped without that variable; the machine needs neither SeqIO nor TensorFlow.
"""

import functools
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import optimizer
from pausejax.config import LossConfig, OptimConfig, default
from pausejax.inference import decode
from pausejax.model import attention
from pausejax.training import step
from tests import models, toys

pytestmark = pytest.mark.skipif(
  not os.environ.get("PAUSEJAX_TEST_GPU"), reason="PAUSEJAX_TEST_GPU not set"
)

LOSS = LossConfig(num_chunks=4, z_loss=0.0)
# Kernels are chosen by their time, and some add in a varying order.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
T = 256

SEGMENTS = np.stack([np.ones(T), np.repeat([1, 2, 3, 0], T // 4)])
PREFIXES = np.stack([np.arange(T) < 100, np.arange(T) % 64 < 9])
CALLS = {
  "causal": {},
  "segments": dict(segment_ids_BT=SEGMENTS.astype(np.int32)),
  "prefix": dict(
    segment_ids_BT=SEGMENTS.astype(np.int32), in_prefix_BT=PREFIXES
  ),
  "window": dict(window=70),
  "window of one": dict(window=1),
  "window beyond the row": dict(window=1000),
  "traced window": dict(window=np.int32(70)),
  "window and segments": dict(
    window=70, segment_ids_BT=SEGMENTS.astype(np.int32)
  ),
}


def _distance(found, wanted) -> float:
  """Returns the norm of the difference, relative to what is wanted."""
  norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))
  return norm(np.float64(found) - np.float64(wanted)) / norm(wanted)


def _value_and_grads(kind, inputs, weights_BTNH, call):
  """Returns the output of attention and its gradients, in float32."""

  def total(*qkv):
    mixed = attention.attend(*qkv, kind=kind, **call)
    return jnp.sum(mixed.astype(jnp.float32) * weights_BTNH), mixed

  grads, mixed = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(
    *inputs
  )
  return [np.asarray(x, np.float32) for x in (mixed, *grads)]


@pytest.mark.parametrize("name", CALLS)
def test_cudnn_equals_float32_attention(name):
  call = CALLS[name]
  if name == "traced window":  # As in a scan over layers that differ.
    call = jax.tree.map(jnp.asarray, call)
  rng = np.random.default_rng(0)
  *inputs, weights = (
    jnp.asarray(rng.normal(size=(2, T, n, 64)), jnp.bfloat16)
    for n in (4, 2, 2, 4)
  )
  found = _value_and_grads("cudnn", inputs, weights, call)
  with jax.default_matmul_precision("highest"):
    exact = [x.astype(jnp.float32) for x in inputs]
    wanted = _value_and_grads("xla", exact, weights, call)
  # A bfloat16 has 8 bits: 2**-8 is 0.4%. The sums are float32.
  for x, y in zip(found, wanted, strict=True):
    if np.linalg.norm(y) > 1e-3:  # One key: no gradient of q and k.
      assert _distance(x, y) < 1e-2
    else:
      assert np.linalg.norm(x) < 0.1


def test_auto_is_cudnn_in_bfloat16_and_xla_in_float32():
  kernels = lambda dtype: (
    jax.jit(attention.attend)
    .lower(*[jnp.zeros((2, T, 4, 64), dtype)] * 3)
    .compile()
    .as_text()
  )
  assert "fmha" in kernels(jnp.bfloat16)
  assert "fmha" not in kernels(jnp.float32)


def test_the_backward_pass_does_not_repeat_cudnns_forward_pass():
  model = models.model(dtype="bfloat16", remat="names", d_model=32)

  def total(model):
    return jnp.sum(models.apply(model, models.batch()).astype(jnp.float32))

  jaxpr = str(jax.make_jaxpr(jax.grad(total))(model))
  assert jaxpr.count(attention.CUDNN_PRIMITIVE) == 1


def _train_step(batch, **changes):
  """Returns the state and the metrics after one step."""
  fields = default().optim.to_dict() | dict(warmup_steps=2)
  made, schedule = optimizer.make_optimizer(OptimConfig(**fields), 10)
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LOSS,
    num_microbatches=1,
    pause_id=models.PAUSE_ID,
  )
  return jax.jit(train)(models.train_state(made, **changes), batch)


@pytest.mark.parametrize("name", models.VARIANTS)
def test_a_float32_step_equals_that_of_the_cpu(name):
  changes = models.VARIANTS[name]
  with jax.default_matmul_precision("highest"):
    _, found = _train_step(models.batch(), **changes)
    with jax.default_device(jax.devices("cpu")[0]):
      _, wanted = _train_step(models.batch(), **changes)
  for metric, value in wanted.items():
    assert float(found[metric]) == pytest.approx(float(value), 1e-5), metric


@pytest.mark.parametrize("name", models.VARIANTS)
def test_a_bfloat16_step_is_near_the_float32_step(name):
  changes = {**models.VARIANTS[name], "remat": "names"}
  _, found = _train_step(models.batch(), **changes | {"dtype": "bfloat16"})
  with jax.default_matmul_precision("highest"):
    _, wanted = _train_step(models.batch(), **changes)
  assert found["loss"] == pytest.approx(float(wanted["loss"]), 1e-2)
  assert found["grad_norm"] == pytest.approx(float(wanted["grad_norm"]), 5e-2)


def test_a_target_that_is_a_pause_has_no_gradient():
  model = models.model(dtype="bfloat16", remat="names")
  batch = models.batch(batch_size=1)
  batch["targets"][0, -1] = models.PAUSE_ID
  batch["loss_mask"][0, -1] = False

  def total(positions_TD):
    moved = jax.tree.map(lambda x: x, model)
    moved.position_embedding[...] = positions_TD
    return step._summed_objective(
      moved, batch, loss=LOSS, pause_id=models.PAUSE_ID
    )[0]

  grad_TD = jax.jit(jax.grad(total))(model.position_embedding[...])
  # The last vector feeds only its own target.
  assert (grad_TD[-1] == 0).all() and (grad_TD[-2] != 0).any()


@pytest.mark.parametrize("name", ["paper", "llama"])
def test_greedy_decoding_equals_the_full_forward(name):
  model = models.model(**models.VARIANTS[name])
  pauses = [models.PAUSE_ID] * 3
  prompts = [[0, 5, 9, 11, 30, *pauses], [0, 7, *pauses]]
  tokens_BT, is_real_BT = decode.left_pad(prompts, width=16, pad_id=2)
  with jax.default_matmul_precision("highest"):
    ids_BN = decode.generate(
      model,
      tokens_BT,
      is_real_BT,
      is_real_BT,
      jax.random.key(0),
      num_new=8,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=-1,
      pause_id=models.PAUSE_ID,
    )
    whole = [
      [*p, *ids] for p, ids in zip(prompts, ids_BN.tolist(), strict=True)
    ]
    logits_BTV = models.logits(model, models.rows(whole, [1, 1]))
  best_BT = logits_BTV.at[..., models.PAUSE_ID].set(-np.inf).argmax(-1)
  for prompt, ids_N, best_T in zip(prompts, ids_BN, best_BT, strict=True):
    start = len(prompt) - 1
    np.testing.assert_array_equal(ids_N, best_T[start : start + 8])


def _start(*words: str) -> subprocess.Popen:
  env = {**os.environ, "JAX_PLATFORMS": "cuda", "XLA_FLAGS": DETERMINISTIC}
  # Without a cache, each process compiles and chooses its kernels.
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  return subprocess.Popen(
    words,
    cwd=toys.ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(process: subprocess.Popen) -> str:
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A run of 200 steps, and one killed after its first save and resumed."""
  folder = tmp_path_factory.mktemp("runs")
  toys.write_corpus(folder / "corpus")
  more = ("model.dtype=auto", "model.remat=names", "model.scan_unroll=1")
  more += ("num_steps=200", "checkpoint.every=20", "eval.every=0")

  def start(name: str) -> subprocess.Popen:
    words = [f"--config.{field}" for field in more]
    return _start(*toys.command(folder / "corpus", folder / name, *words))

  quiet, victim = start("quiet"), start("killed")
  saved = folder / "killed" / "checkpoints"
  while victim.poll() is None:
    if any(p.name.isdigit() for p in saved.glob("*")):
      break
    time.sleep(0.01)
  victim.send_signal(signal.SIGKILL)
  victim.communicate()
  output = _finish(start("killed"))
  _finish(quiet)
  assert "resuming from step" in output
  return folder


def test_a_killed_run_resumes_bit_for_bit(runs):
  rows = [toys.rows(runs / name) for name in ("quiet", "killed")]
  losses = [[(row["step"], row["loss"]) for row in found] for found in rows]
  assert losses[0] == losses[1] and len(losses[0]) == 200
  metas = [toys.last_meta(runs / name) for name in ("quiet", "killed")]
  assert metas[0]["digests"] == metas[1]["digests"]


def test_a_run_is_scored_and_continues_a_prompt(runs):
  pausejax = (sys.executable, "-m", "pausejax")
  checkpoint = f"--checkpoint={runs / 'quiet'}"
  scoring = _start(
    *pausejax, "evaluate", checkpoint, f"--text={runs / 'corpus'}"
  )
  answering = _start(
    *(*pausejax, "generate", checkpoint),
    *("--pauses=3", "--prompt=call me", "--max_new_tokens=8"),
  )
  assert "pause" in _finish(scoring)
  assert "call me" in _finish(answering)
