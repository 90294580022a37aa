"""The parts of `benchmarks/gpu.py`.

B batch, T tokens.
"""

import dataclasses
import functools
import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import inference, measure
from benchmarks.arms import ours
from benchmarks.arms.shapes import SHAPES, Shape, batches
from benchmarks.trials import Row, Session
from pausejax.runtime import chips, flops

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Sizes of all measurements.

  Attributes:
    products: side lengths of the square matrices.
    shapes: "130m" and "1b" -> the shape.
    searched: size -> batch sizes of pausejax, from small to large.
    peer_batches: size -> batch sizes of the arms without rematerialization.
    backend: "cpu" or "gpu", which selects the settings of pausejax.
    steps: size -> measured steps of each trial.
    copied: numbers in the array whose copy measures the memory.
    new_tokens: tokens of an answer.
  """

  products: tuple[int, ...]
  shapes: dict[str, Shape]
  searched: dict[str, tuple[int, ...]]
  peer_batches: dict[str, tuple[int, ...]]
  backend: str
  steps: dict[str, int]
  copied: int
  new_tokens: int

  def config(self, shape: Shape, kind: str, changes: tuple[str, ...] = ()):
    """Returns the config of a pausejax run, without starting a backend."""
    return ours.config(shape, kind, changes, backend=self.backend)


def plan(smoke: bool, batch_size: int = 0) -> Plan:
  """Returns the sizes of a measurement, or toy sizes that take seconds.

  Args:
    smoke: toy sizes.
    batch_size: the only one of all train steps; 0: a search.
  """
  made = _toy_plan() if smoke else _full_plan()
  if not batch_size:
    return made
  only = dict.fromkeys(made.shapes, (batch_size,))
  return dataclasses.replace(made, searched=only, peer_batches=only)


def _toy_plan() -> Plan:
  toys = dict.fromkeys(("130m", "1b"), SHAPES["toy"])
  return Plan(
    products=(64, 128),
    shapes=toys,
    searched=dict.fromkeys(toys, (2, 4)),
    peer_batches=dict.fromkeys(toys, (2,)),
    backend="cpu",
    steps=dict.fromkeys(toys, 2),
    copied=2**20,
    new_tokens=4,
  )


def _full_plan() -> Plan:
  # 2048 positions, as in the paper and in most reports.
  long = functools.partial(dataclasses.replace, seq_len=2048)
  return Plan(
    products=(4096, 8192, 16384),
    shapes={size: long(SHAPES[size]) for size in ("130m", "1b")},
    searched={"130m": (32, 64), "1b": (8, 16)},
    peer_batches={"130m": (32, 64), "1b": (8, 16)},
    backend="gpu",
    steps={"130m": 10, "1b": 5},
    copied=2**30,
    new_tokens=128,
  )


def run(part: str, session: Session, plan: Plan) -> None:
  """Runs the part of this name until it is done or out of time."""
  who, _, size = part.rpartition(" ")
  if part == "ceiling":
    ceiling(session, plan)
  elif part == "decode":
    decode(session, plan)
  elif who == "ours":
    pausejax(session, plan, size)
  else:
    peers(session, plan, size, {"pytorch": "gpt"}.get(who, "llama"))


def ceiling(session: Session, plan: Plan) -> None:
  """Measures JAX's matrix products, PyTorch's in `peers`, and the memory."""
  import jax
  import jax.numpy as jnp

  multiply = jax.jit(jnp.matmul)

  def product(side: int) -> Row:
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(k, (side, side), jnp.bfloat16) for k in keys)
    start = lambda: multiply(a, b)
    return _products(side, start, jax.block_until_ready)

  for side in plan.products:
    name = f"bfloat16 product of {side}"
    device = {"device": jax.devices()[0].device_kind}
    session.trial(name, lambda n=side, d=device: {**product(n), **d})

  def copy() -> Row:
    x = jnp.ones(plan.copied, jnp.float32)
    start = jax.jit(lambda x: x + 1)
    times = _times_of_ten(lambda: start(x), jax.block_until_ready)
    return {"gb_per_s": 1e-9 * 2 * x.nbytes / statistics.median(times)}

  session.trial("read and write memory", copy)


def _products(side: int, start: Callable[[], Any], wait) -> Row:
  """Returns the median rate of ten products at a time."""
  times = _times_of_ten(start, wait)
  return {"tflops": 2e-12 * side**3 / statistics.median(times)}


def _times_of_ten(start: Callable[[], Any], wait) -> list[float]:
  """Returns the seconds of one call, measured over ten calls at a time."""
  wait(start())
  ten = lambda: wait([start() for _ in range(10)])
  ten()
  return [measure.seconds(ten) / 10 for _ in range(7)]


def pausejax(session: Session, plan: Plan, size: str) -> None:
  """Searches the batch size, then changes one setting at a time."""
  shape = plan.shapes[size]

  of = lambda batch_size: dataclasses.replace(shape, batch_size=batch_size)

  def trial(name: str, batch_size: int, *changes: str, **more):
    run = lambda: _ours(session, plan, size, of(batch_size), changes, **more)
    return session.trial(f"{name}, B={batch_size}", run)

  rows = list(_climb(plan.searched[size], lambda b: trial("default", b)))
  best = max(rows, key=_speed)[0] if rows else plan.searched[size][0]
  unrolled = f"--config.model.scan_unroll={shape.num_layers}"
  trial("unrolled", best, unrolled)
  for change in ("model.remat=none", "loss.num_chunks=1"):
    trial(f"unrolled, {change}", best, unrolled, f"--config.{change}")

  def simplest(batch_size: int, attention: str) -> Row | None:
    name = f"plain jax, attention {attention}, B={batch_size}"
    run = lambda: _simplest(session, plan, size, of(batch_size), attention)
    return session.trial(name, run)

  sizes = plan.peer_batches[size]
  rows = list(_climb(sizes, lambda b: simplest(b, "cudnn")))
  trial("unrolled, llama", best, unrolled, kind="llama")
  trial("10% pauses", best, pauses=0.1)
  for change in (
    "model.attention=xla",
    "model.remat=none",
    "model.remat=full",
    "loss.num_chunks=16",
  ):
    trial(change, best, f"--config.{change}")
  simplest(max(rows, key=_speed)[0] if rows else sizes[0], "xla")


def _simplest(session, plan, size, shape: Shape, attention: str) -> Row:
  """Returns the row of the plain JAX trainer."""
  from benchmarks.arms import plain

  config = plan.config(shape, "gpt")
  start = ours.weights(ours.Trainer(config, shape.vocab_size).state.model)
  gc.collect()
  trainer = plain.Trainer(config, start, attention=attention)
  return _train(session, plan, size, shape, "gpt", trainer)


def _speed(row: tuple[int, float]) -> float:
  return row[1]


def _climb(
  sizes: tuple[int, ...], trial: Callable[[int], Row | None]
) -> Iterator[tuple[int, float]]:
  """Yields (batch size, tokens per second) until it fails or slows down."""
  last = 0.0
  for batch_size in sizes:
    row = trial(batch_size)
    if row is None:
      return
    yield batch_size, row["tokens_per_s"]
    if row["tokens_per_s"] < last:
      return
    last = row["tokens_per_s"]


def _ours(
  session, plan, size, shape: Shape, changes, *, kind="gpt", pauses=0.0
) -> Row:
  """Returns the row of pausejax's step with some changes to the config."""
  config = plan.config(shape, kind, changes)
  trainer = ours.Trainer(config, shape.vocab_size)
  batch = batches(shape, 1, pause_fraction=pauses)[0]
  compile_s, needed = trainer.compile(batch)
  more = {"compile_s": compile_s, "memory_gib": needed / GIB}
  _require_memory(needed)
  return {**_train(session, plan, size, shape, kind, trainer, pauses), **more}


def _require_memory(needed: int) -> None:
  """Raises unless a step fits in memory."""
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  limit = stats.get("bytes_limit", needed)
  if needed > limit:
    raise MemoryError(f"needs {needed / GIB:.1f} GiB of {limit / GIB:.1f}")


def _train(session, plan, size, shape: Shape, kind, trainer, pauses=0.0) -> Row:
  """Returns the speed of a trainer's steps, and their use of the device."""
  feed = itertools.cycle(batches(shape, 4, pause_fraction=pauses))
  first = trainer.step(next(feed))
  times = measure.step_seconds(
    lambda: trainer.dispatch(next(feed)), steps=plan.steps[size], warmup=2
  )
  speed = shape.num_tokens / statistics.median(times)
  model = plan.config(shape, kind).model_config(shape.vocab_size)
  per_token = functools.partial(flops.per_token, model, shape.seq_len)
  use = _use(session, speed * per_token())
  if "of_datasheet" in use:
    ratio = per_token(full_attention=True) / per_token()
    use["of_datasheet_full_attention"] = use["of_datasheet"] * ratio
  return {"tokens_per_s": speed, "step_s": times, "loss": first, **use}


def _use(session: Session, flops_per_s: float) -> Row:
  """Returns FLOP/s, also as fractions of the measured and stated peaks."""
  use = {"tflops": 1e-12 * flops_per_s}
  products = [row for row in session.rows() if row["part"] == "ceiling"]
  measured = [row["tflops"] for row in products if "tflops" in row]
  if measured:
    use["of_ceiling"] = use["tflops"] / max(measured)
  kinds = {row["device"] for row in products if "device" in row}
  for chip in filter(None, map(chips.of_kind, kinds)):
    use["of_datasheet"] = flops_per_s / chip.peak_flops
  return use


def peers(session: Session, plan: Plan, size: str, kind: str) -> None:
  """Measures the step in PyTorch: a GPT, or Hugging Face's Llama."""
  import torch

  if kind == "llama":
    import transformers  # noqa: F401
  from benchmarks.arms import pytorch

  torch.set_float32_matmul_precision("high")
  if kind == "gpt":
    for side in plan.products[1:]:
      name = f"bfloat16 product of {side}"
      session.trial(name, lambda n=side: _torch_product(n))
  trial = lambda name, b, compiled: session.trial(
    f"{name}, B={b}",
    lambda: _peer(session, plan, size, kind, b, compiled),
  )
  sizes = plan.peer_batches[size]
  rows = list(_climb(sizes, lambda b: trial("compiled", b, True)))
  batch_size = max(rows, key=_speed)[0] if rows else sizes[0]
  pytorch.use_attention(cudnn_only=True)
  trial("compiled, attention cudnn", batch_size, True)
  pytorch.use_attention(cudnn_only=False)
  trial("eager", batch_size, False)


def _peer(session, plan, size, kind, batch_size: int, compiled: bool) -> Row:
  """Returns the row of PyTorch's step."""
  import torch

  from benchmarks.arms import pytorch

  shape = dataclasses.replace(plan.shapes[size], batch_size=batch_size)
  config = plan.config(shape, kind)
  on_gpu = pytorch.device() == "cuda"
  torch.compiler.reset()
  if on_gpu:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
  model = pytorch.fresh(kind, config.model_config(shape.vocab_size))
  trainer = pytorch.Trainer(model, config, compiled=compiled)
  first = functools.partial(trainer.step, batches(shape, 1)[0])
  more = {"compile_s": measure.seconds(first)}
  row = _train(session, plan, size, shape, kind, trainer)
  if on_gpu:
    more["memory_gib"] = torch.cuda.max_memory_allocated() / GIB
  return {**row, **more}


def _torch_product(side: int) -> Row:
  import torch

  from benchmarks.arms import pytorch

  make = lambda: torch.randn(
    side, side, device=pytorch.device(), dtype=torch.bfloat16
  )
  a, b = make(), make()
  on_gpu = pytorch.device() == "cuda"
  wait = lambda _: torch.cuda.synchronize() if on_gpu else None
  return _products(side, lambda: a @ b, wait)


def decode(session: Session, plan: Plan) -> None:
  """Measures greedy decoding with a cache: pausejax and Hugging Face."""
  import jax

  num_new = plan.new_tokens

  def speed(run: inference.Answer, batch_size: int) -> Row:
    run()
    times = [measure.seconds(run) for _ in range(3)]
    return {"tokens_per_s": batch_size * num_new / statistics.median(times)}

  def our_answer(size: str, batch_size: int, num_pauses: int) -> Row:
    model = inference.random_model(config(size))
    prompts_BT = inference.random_ids(model, batch_size, num_new)
    run = inference.answering(model, prompts_BT, num_pauses, num_new)
    return speed(run, batch_size)

  def their_answer(size: str, batch_size: int) -> Row:
    import torch

    from benchmarks.arms import pytorch

    model = jax.eval_shape(lambda: inference.random_model(config(size)))
    hf = pytorch.fresh("llama", model.config).hf.eval()
    prompts_BT = inference.random_ids(model, batch_size, num_new)
    if pytorch.device() == "cuda":
      hf = hf.to(torch.bfloat16)
    return speed(inference.hf_answering(hf, prompts_BT, num_new), batch_size)

  def config(size: str):
    shape = dataclasses.replace(plan.shapes[size], seq_len=max(4 * num_new, 32))
    return plan.config(shape, "llama").model_config(shape.vocab_size)

  arms = (
    ("0 pauses", functools.partial(our_answer, num_pauses=0)),
    ("hugging face", their_answer),
    ("10 pauses", functools.partial(our_answer, num_pauses=10)),
  )
  for size, batch_size in (("1b", 1), ("1b", 32), ("130m", 1)):
    for name, run in arms:
      trial = functools.partial(run, size, batch_size)
      session.trial(f"{size}, B={batch_size}, {name}", trial)
