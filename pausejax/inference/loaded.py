"""A trained run in memory: generates text and computes likelihoods.

JAX is imported when the parameters are first needed.

B prompts, T positions, O options of a prompt, C ids of an option, V ids of the
vocabulary, N new ids, D d_model.
"""

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from pausejax import arguments, errors
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import saved_run
from pausejax.inference import continuation
from pausejax.prompt_pauses import PromptPauses
from pausejax.runtime import accelerators

if TYPE_CHECKING:
  from pausejax.model.decoder import Decoder

_CHOICES = {
  "max_new_tokens": (arguments.whole_number, 1),
  "seed": (arguments.whole_number, 0, arguments.MAX_INT64),
  "temperature": (errors.require_in_range, 0.0),
  "top_k": (arguments.whole_number, 0, arguments.MAX_INT32),
  "top_p": (errors.require_in_range, 0.0, 1.0),
}


def load(
  workdir: str | os.PathLike[str],
  step: int | None = None,
  *,
  average: bool = False,
) -> "LoadedRun":
  """Returns the trained run in a workdir.

  Reads the config, the tokenizer and the checkpoint's metadata; the parameters
  are read on first use.

  >>> run = pausejax.load(workdir)
  >>> run.step, run.tokenizer.pause_id
  (2, 259)
  >>> answers = run.generate(["The pause", "A"], num_pauses=4, max_new_tokens=3)
  >>> len(answers)
  2

  Args:
    workdir: folder of the run.
    step: step of the checkpoint; by default the newest.
    average: whether to use the average of the parameters (optim.ema_decay).

  Raises:
    CheckpointUnusable: the checkpoint is damaged.
    UsageError: there is no such folder, the run has no average, or `step` is
      not a whole number.
    UserError: no checkpoint is there, or its tokenizer is missing.
  """
  spec = arguments.path("workdir", workdir) or "."
  if step is not None:
    step = arguments.whole_number("step", step)
    spec = f"{spec.rstrip('/')}/{CHECKPOINTS}/{step}"
  errors.require_one_of("average", average, (True, False))
  return LoadedRun(
    saved_run.find_run(spec, "workdir", average=average, average_name="average")
  )


def check_choices(prefix: str = "", **values: Any) -> None:
  """Raises UsageError unless `generate` accepts all values.

  Args:
    prefix: prefix of the names in messages, such as "--".
    values: arguments of `generate` by name.
  """
  for name, value in values.items():
    check, *bounds = _CHOICES[name]
    check(prefix + name, value, *bounds)


class LoadedRun:
  """A checkpoint of a run, for inference.

  Attributes:
    workdir: the run's folder.
    step: step of the checkpoint.
    config: the `ConfigDict` that the run was trained with.
    tokenizer: `encode(texts)`, `decode(ids)`, and the ids `bos_id`, `eos_id`,
      `pad_id` and `pause_id`.
  """

  def __init__(self, saved: saved_run.SavedRun):
    """Wraps a saved run; use `load`."""
    self._saved = saved
    self.workdir = saved.workdir
    self.step = saved.step
    self.config: Any = ConfigDict(saved.meta["config"])
    self.tokenizer = saved.tokenizer

  def __repr__(self) -> str:
    return f"LoadedRun(step {self.step} of {self._saved.place})"

  @functools.cached_property
  def model(self) -> "Decoder":
    """The decoder, on all devices: model(tokens_BT, ...) -> [B, T, D]."""
    import jax

    from pausejax import sharding

    accelerators.require_used()
    with jax.set_mesh(sharding.data_mesh()):
      return self._saved.load()

  def generate(
    self,
    prompts: str | Sequence[str],
    *,
    num_pauses: int = 0,
    position: str = "append",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> list[str]:
    """Returns the text that follows each prompt, up to EOS.

    Args:
      prompts: one text or several.
      num_pauses: M, number of `<pause>` tokens in each prompt (section 3.3).
      position: where they stand, a name in `prompt_pauses.POSITIONS`.
      max_new_tokens: maximum number of new ids per prompt.
      temperature: 0 always selects the most likely id.
      top_k: sample among this many of the most likely ids; 0 for all.
      top_p: sample among the most likely ids with this probability mass.
      seed: seed of the sampling; the same seed gives the same text.

    Raises:
      UsageError: a value out of range, or prompt, pauses and new tokens do not
        fit the positions of the model.
    """
    check_choices(
      max_new_tokens=max_new_tokens,
      seed=seed,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    prompts = continuation.text_list("prompts", prompts)
    ids = self.tokenizer.encode(prompts)
    arrays = self._prompt_arrays(ids, num_pauses, position, max_new_tokens)
    import jax

    from pausejax.inference import decode

    ids_BN = decode.generate(
      self.model,
      **arrays,
      key=jax.random.key(seed),
      num_new=max_new_tokens,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      eos_id=self.tokenizer.eos_id,
      pause_id=self.tokenizer.pause_id,
      behind=self._saved.behind_tokens,
    )
    rows = np.asarray(ids_BN).tolist()
    return [
      continuation.continuation_text(self.tokenizer, *pair)
      for pair in zip(ids, rows, strict=True)
    ]

  def log_likelihoods(
    self,
    prefixes: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    num_pauses: int = 0,
    position: str = "append",
  ) -> list[np.ndarray]:
    """Returns the log-likelihood of each option as continuation of its prefix.

    >>> run = pausejax.load(workdir)
    >>> options = [[" a dog", " a cat"], [" yes"]]
    >>> nats = run.log_likelihoods(["It is", "Is it"], options, num_pauses=2)
    >>> [len(x) for x in nats], bool(nats[0].max() < 0)
    ([2, 1], True)

    Args:
      prefixes: B texts.
      options: for each prefix, the texts to score, exactly as they follow it:
        a new word begins with a space.
      num_pauses: M, number of `<pause>` tokens with each prefix.
      position: where they stand, a name in `prompt_pauses.POSITIONS`.

    Returns:
      For each prefix float32 [number of its options], in nats: the sum over the
      ids of each option.

    Raises:
      UsageError: the numbers of prefixes and lists of options differ, an option
        has no tokens, or prefix, pauses and options do not fit the model.
      UserError: the activations of the model overflow.
    """
    prefixes = continuation.text_list("prefixes", prefixes)
    encoded = self._encode_options(prefixes, options)
    longest = max(len(o) for row in encoded for o in row)
    arrays = self._prompt_arrays(
      self.tokenizer.encode(prefixes), num_pauses, position, longest
    )
    from pausejax.inference import batches, score

    arrays |= batches.option_arrays(
      encoded, batch_size=len(encoded), num_options=max(map(len, encoded))
    )
    log_prob_BO, _ = score.score_options(
      self.model,
      **arrays,
      pause_id=self.tokenizer.pause_id,
      behind=self._saved.behind_tokens,
    )
    found_BO = np.asarray(log_prob_BO)
    score.require_numbers(found_BO)
    return [x_O[: len(row)] for x_O, row in zip(found_BO, encoded, strict=True)]

  def logits(self, tokens: Any) -> np.ndarray:
    """Returns the logits of the token that follows each token.

    >>> run = pausejax.load(workdir)
    >>> run.logits([[0, 12, 13], [0, 12, 14]]).shape
    (2, 3, 260)

    Args:
      tokens: int [T] or [B, T], the inputs of the model: BOS first, with
        pauses, without padding. Attention is causal, even if the model was
        trained with a bidirectional prefix.

    Returns:
      float32 [T, V] or [B, T, V], unnormalized; the last of V ids is `<pause>`.

    Raises:
      UsageError: wrong shape, an id that the tokenizer does not have, or more
        positions than the model has.
    """
    size, longest = self.tokenizer.vocab_size, self._saved.model.max_seq_len
    tokens = arguments.id_array(
      "tokens", tokens, shape="[T] or [B, T]", max_id=size - 1
    )
    tokens_BT = np.atleast_2d(tokens)
    errors.require(
      tokens_BT.shape[1] <= longest,
      f"tokens: got {tokens_BT.shape[1]} positions, the model has {longest}",
    )
    logits_BTV = _logits()(self.model, tokens_BT.astype(np.int32))
    logits = np.asarray(logits_BTV)[:, :, :size]
    return logits if tokens.ndim == 2 else logits[0]

  def _prompt_arrays(
    self, ids: list[list[int]], num_pauses: int, position: str, num_new: int
  ) -> dict[str, np.ndarray]:
    """Returns the arrays [B, T] of `continuation.prompt_arrays`."""
    t = self.tokenizer
    pauses = PromptPauses(
      num_pauses=num_pauses,
      position=position,
      in_prefix=self.config.finetune.pauses_in_prefix,
    )
    self._saved.warn_of_pauses(pauses.num_pauses)
    accelerators.require_used()
    return continuation.prompt_arrays(
      ids,
      pauses,
      t,
      self._saved.behind_tokens,
      num_new=num_new,
      max_seq_len=self._saved.model.max_seq_len,
    )

  def _encode_options(
    self, prefixes: list[str], options: Sequence[Sequence[str]]
  ) -> list[list[list[int]]]:
    """Returns the ids of each option in the place after a prefix."""
    options = arguments.as_list("options", options)
    errors.require(
      len(options) == len(prefixes),
      f"options: got {len(options)} lists for {len(prefixes)} prefixes; give "
      "one list for each prefix",
    )
    encoded = []
    for i, texts in enumerate(options):
      texts = continuation.text_list(f"options[{i}]", texts)
      if self.tokenizer.adds_space:
        texts = [text.removeprefix(" ") for text in texts]
      encoded.append(self.tokenizer.encode(texts))
      errors.require(
        all(encoded[-1]), f"options[{i}]: an option has no tokens: {texts!r}"
      )
    return encoded


@functools.cache
def _logits():
  """Returns jitted (model, tokens_BT) -> logits [B, T, vocabulary rows]."""
  import jax
  import jax.numpy as jnp

  def logits(model, tokens_BT):
    shape = tokens_BT.shape
    x_BTD = model(
      tokens_BT,
      positions_BT=jnp.broadcast_to(jnp.arange(shape[1]), shape),
      segment_ids_BT=jnp.ones(shape, jnp.int32),
    )
    return model.logits(x_BTD)

  return jax.jit(logits)
