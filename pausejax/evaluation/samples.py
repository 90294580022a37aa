"""Continuations of fixed prompts, with pauses, during training.

B prompts, T positions, N new ids.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from pausejax import sharding
from pausejax.config import TrainConfig
from pausejax.data import pipeline
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.inference import continuation, decode
from pausejax.prompt_pauses import PromptPauses

Samples = Sequence[dict[str, Any]]


def sampler(
  config: TrainConfig, tokenizer: PauseTokenizer
) -> Callable[[Any], Samples]:
  """Returns model -> its most likely continuations of `eval.sample_prompts`.

  A sample has the `prompt`, its `num_pauses`, and the `text` that follows.

  Args:
    config: config of the run.
    tokenizer: tokenizer of the run.

  Raises:
    UsageError: a prompt is not text; or prompts, pauses and new tokens do not
      fit the positions of the model.
  """
  prompts, num_new = config.eval.sample_prompts, config.eval.sample_tokens
  if not prompts:
    return lambda model: []
  pauses = PromptPauses(
    num_pauses=config.eval.sample_pauses,
    in_prefix=config.finetune.pauses_in_prefix,
  )
  finetunes = pipeline.is_finetuning(config.data.rates)
  trained = config if finetunes else config.data.pauses
  behind = trained.behind_tokens(tokenizer.pause_id)
  texts = continuation.text_list("eval.sample_prompts", prompts)
  ids = tokenizer.encode(texts)
  num_rows = sharding.padded_size(len(ids), "batch")
  arrays = continuation.prompt_arrays(
    [*ids, *[ids[-1]] * (num_rows - len(ids))],
    pauses,
    tokenizer,
    behind,
    num_new=num_new,
    max_seq_len=config.model["max_seq_len"],
  )

  def sample(model) -> Samples:
    ids_BN = decode.generate(
      model,
      **{name: sharding.put_same_rows(x) for name, x in arrays.items()},
      key=jax.random.key(0),  # Greedy: never used.
      num_new=num_new,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=tokenizer.eos_id,
      pause_id=tokenizer.pause_id,
      behind=behind,
    )
    rows = sharding.fetch_rows(ids_BN).tolist()
    return [
      {
        "prompt": prompt,
        "num_pauses": pauses.num_pauses,
        "text": continuation.continuation_text(tokenizer, row, new),
      }
      for prompt, row, new in zip(prompts, ids, rows[: len(ids)], strict=True)
    ]

  return sample
