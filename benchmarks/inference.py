"""Measures decoding and option scoring: the cost of pauses, and Hugging Face.

  python -m benchmarks.inference
  python -m benchmarks.inference --size=tiny --batch_size=8 --pauses=10

Random weights of a Llama architecture, the same in both; answers of a fixed
length (there is no EOS), greedy, with a cache; float32 on a CPU. Before the
timing, both must give the same ids and the same scores of options. "ratio" is
the time of an arm divided by that of pausejax without pauses: pauses are read
in the same pass as the prompt and need no further step.

Every step reads all weights of the blocks and the head; the floor is the time
to read them, at the speed of one long sum. Hugging Face scores an option in a
row of prefix and option, as lm-eval does, and computes only the logits of the
option.

B batch, T tokens, O options of a row, C tokens of an option, N new ids.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.arms import ours
from benchmarks.arms.shapes import SHAPES, Shape
from pausejax import prompt_pauses
from pausejax.config import ModelConfig
from pausejax.inference import decode, score
from pausejax.model import decoder

Answer = Callable[[], np.ndarray]


def main(argv: list[str] | None = None) -> None:
  """Measures everything and prints it."""
  parser = measure.parser(__doc__, rounds=7)
  add = parser.add_argument
  add("--size", default="130m", choices=SHAPES)
  add("--batch_size", type=int, default=1)
  add("--prompt_len", type=int, default=128)
  add("--new_tokens", type=int, default=128)
  add("--pauses", default="10,50", help="numbers of pauses, comma-separated")
  add("--options", type=int, default=4, help="options of a prompt to score")
  add("--option_len", type=int, default=16, help="tokens of an option")
  add("--threads", type=int, default=2)
  options = parser.parse_args(argv)
  measure.set_up_cpu(options.threads)
  start = measure.conditions()
  shape = shape_of(options)
  run = ours.config(shape, "llama")
  model = random_model(run.model_config(shape.vocab_size))
  rows = [*answers(options, model), *scores(options, model)]
  columns = {"median_s": ".4f", "best_s": ".4f", "ratio": ".3f"}
  measure.print_table(rows, {**columns, "ms_a_token": ".2f"})
  floor = reading_seconds(model)
  print(f"floor: {1e3 * floor:.2f} ms per token to read the weights once")
  measure.publish("inference", options, rows, start=start, floor_s=floor)


def shape_of(options: argparse.Namespace) -> Shape:
  """Returns a shape with enough positions for prompt, pauses and answer."""
  longest = max(map(int, options.pauses.split(",")))
  seq_len = options.prompt_len + longest + options.new_tokens
  return dataclasses.replace(
    SHAPES[options.size],
    batch_size=options.batch_size,
    seq_len=-(-seq_len // 64) * 64,
  )


def random_model(config: ModelConfig) -> decoder.Decoder:
  """Returns a decoder with fresh parameters."""
  return jax.jit(lambda: decoder.init(config, 0))()


def answers(options: argparse.Namespace, model) -> list[measure.Row]:
  """Returns the rows of decoding."""
  prompts_BT = random_ids(model, options.batch_size, options.prompt_len)
  counts = [0, *map(int, options.pauses.split(","))]
  num_new = options.new_tokens
  arms = {
    f"answer, {m} pauses": answering(model, prompts_BT, m, num_new)
    for m in counts
  }
  base = next(iter(arms))

  def hugging_face() -> Answer:
    return hf_answering(hf_copy(model), prompts_BT, num_new)

  made, missing = measure.build({"answer, hugging face": hugging_face})
  for name, run in made.items():
    require(np.array_equal(run(), arms[base]()), f"{name}: the ids differ")
  rows = measure.compare(
    measure.take_turns({**arms, **made}, rounds=options.rounds), base
  )
  for row in rows:
    row["ms_a_token"] = 1e3 * row["median_s"] / num_new
  return rows + missing


def scores(options: argparse.Namespace, model) -> list[measure.Row]:
  """Returns the rows of scoring options."""
  prompts_BT = random_ids(model, options.batch_size, options.prompt_len)
  shape = (options.batch_size, options.options, options.option_len)
  options_BOC = random_ids(model, *shape)
  base = "score options"
  arms = {base: scoring(model, prompts_BT, options_BOC)}

  def hugging_face() -> Answer:
    return hf_scoring(hf_copy(model), prompts_BT, options_BOC)

  made, missing = measure.build({f"{base}, hugging face": hugging_face})
  for name, run in made.items():
    close = np.allclose(run(), arms[base](), atol=2e-3, rtol=0)
    require(close, f"{name}: the scores differ")
  taken = measure.take_turns({**arms, **made}, rounds=options.rounds)
  return measure.compare(taken, base) + missing


def require(holds: bool, message: str) -> None:
  """Stops the benchmark unless both arms compute the same."""
  if not holds:
    raise SystemExit(message)


def random_ids(model, *shape: int) -> np.ndarray:
  """Returns int32 ids that are neither special nor `<pause>`."""
  rng = np.random.default_rng(len(shape))
  return rng.integers(3, pause_id(model), shape, dtype=np.int32)


def pause_id(model) -> int:
  """Returns the last id."""
  return model.config.vocab_size - 1


def answering(model, prompts_BT, num_pauses: int, num_new: int) -> Answer:
  """Returns a function that makes one batch of answers [B, N]."""
  pauses = prompt_pauses.PromptPauses(num_pauses=num_pauses)
  rows = [
    pauses.prompt(ids[1:], bos_id=ids[0], pause_id=pause_id(model))
    for ids in prompts_BT
  ]
  tokens_BT, is_real_BT = decode.left_pad(rows, width=len(rows[0]), pad_id=0)

  def run() -> np.ndarray:
    ids_BN = decode.generate(
      model,
      tokens_BT,
      is_real_BT,
      is_real_BT,
      jax.random.key(0),
      num_new=num_new,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=-1,
      pause_id=pause_id(model),
    )
    return np.asarray(ids_BN)

  return run


def scoring(model, prompts_BT, options_BOC) -> Answer:
  """Returns a function that scores all options: [B, O], nats."""
  is_real_BT = np.ones(prompts_BT.shape, bool)
  num_tokens_BO = np.full(options_BOC.shape[:2], options_BOC.shape[2], np.int32)

  def run() -> np.ndarray:
    log_prob_BO, _ = score.score_options(
      model,
      prompts_BT,
      is_real_BT,
      is_real_BT,
      options_BOC,
      num_tokens_BO,
      pause_id=pause_id(model),
    )
    return np.asarray(log_prob_BO)

  return run


def hf_copy(model) -> Any:
  """Returns Hugging Face's Llama with the weights of the model."""
  import torch

  from benchmarks.arms import pytorch

  torch.set_num_threads(len(measure.cores()))
  copy = pytorch.llama(model.config, ours.weights(model))
  return copy.hf.to(pytorch.device()).eval()


def hf_answering(hf, prompts_BT, num_new: int) -> Answer:
  """Returns a function that makes one batch of answers [B, N]."""
  import torch

  ids_BT = torch.from_numpy(prompts_BT.astype(np.int64)).to(hf.device)
  how = dict(do_sample=False, use_cache=True, pad_token_id=0)

  @torch.inference_mode()
  def run() -> np.ndarray:
    mask_BT = torch.ones_like(ids_BT)
    all_BS = hf.generate(
      ids_BT, attention_mask=mask_BT, max_new_tokens=num_new, **how
    )
    return all_BS[:, ids_BT.shape[1] :].cpu().numpy()

  return run


def hf_scoring(hf, prompts_BT, options_BOC) -> Answer:
  """Returns a function that scores all options: [B, O], nats."""
  import torch

  rows, num_options, option_len = options_BOC.shape
  prefix_RT = np.repeat(prompts_BT, num_options, axis=0)
  whole = [prefix_RT, options_BOC.reshape(rows * num_options, option_len)]
  ids_RS = torch.from_numpy(np.concatenate(whole, 1).astype(np.int64))
  ids_RS = ids_RS.to(hf.device)

  @torch.inference_mode()
  def run() -> np.ndarray:
    logits = hf(ids_RS, use_cache=False, logits_to_keep=option_len + 1).logits
    log_prob_RCV = logits[:, :-1].float().log_softmax(-1)
    target_RC1 = ids_RS[:, -option_len:, None]
    sum_R = log_prob_RCV.gather(-1, target_RC1).sum((1, 2))
    return sum_R.view(rows, num_options).cpu().numpy()

  return run


def reading_seconds(model) -> float:
  """Returns the minimum time of a step: that of summing all its weights."""
  matrices = (model.blocks, model.head_DV())
  num_bytes = sum(
    x.size * np.dtype(model.config.dtype).itemsize
    for x in jax.tree.leaves(matrices)
  )
  words = jnp.ones(num_bytes // 4, jnp.float32)
  total = jax.jit(jnp.sum)
  read = lambda: total(words).block_until_ready()
  return min(measure.seconds(read) for _ in range(6))


if __name__ == "__main__":
  main()
