"""A run as a model of lm-evaluation-harness (extra "lm-eval").

  PauseJaxLM("runs/squad50", num_pauses=10)        for lm_eval.simple_evaluate
  lm_eval --model pausejax --model_args checkpoint=runs/squad50,num_pauses=10

`pausejax lm-eval` registers it and runs the harness' command line. Texts become
ids as for `--model hf` with an export of the run: BOS comes first, an empty
context is BOS, and a context that does not fit is truncated on the left, with
its BOS. Pauses are added to the ids.

In a run of several processes, every process makes the same requests, and the
harness writes results in the one whose LOCAL_RANK is 0.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval import tasks, utils
from lm_eval._cli.harness import HarnessCLI
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.config.evaluate_config import EvaluatorConfig

import pausejax
from pausejax import arguments, errors
from pausejax.checkpoints import saved_run
from pausejax.data.finetuning import prompts
from pausejax.interop import harness, hf_tokenizer
from pausejax.prompt_pauses import PromptPauses
from pausejax.runtime import accelerators, distributed
from pausejax.runtime.progress import CountBar

# The nine tasks of the paper as tasks of the harness.
TASKS = pathlib.Path(__file__).parent / "lm_eval_tasks"

Keep = Callable[[int, Any], None]


@register_model("pausejax")
class PauseJaxLM(TemplateLM):
  """A run, with the same pauses in every request.

  Attributes:
    max_length: positions that a request may use.
    max_gen_toks: new tokens of an answer whose task does not say.
    batch_size: requests per batch, over all devices.
  """

  def __init__(
    self,
    checkpoint: str | os.PathLike[str],
    num_pauses: int = 0,
    position: str = "append",
    filler: str = "",
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    max_gen_toks: int = 256,
    add_bos_token: bool = True,
    dtype: str = "",
    average: bool = False,
    model: str = "",
    **others: Any,
  ):
    """Reads the run and its parameters.

    Args:
      checkpoint: the workdir of a run, or WORKDIR/checkpoints/STEP.
      num_pauses: M, number of pauses in each request.
      position: where they stand, a name in `prompt_pauses.POSITIONS`.
      filler: what replaces `<pause>`, as in `prompt_pauses.PromptPauses`.
      batch_size: requests per batch; rounded up to a multiple of the devices.
      max_length: positions that a request may use; default: the model's.
      max_gen_toks: new tokens of an answer whose task does not say.
      add_bos_token: whether texts start with BOS, as in training and in the
        tokenizer of an export.
      dtype: compute dtype, a value of `model.dtype`; default: the run's.
      average: whether to use the average of the parameters (optim.ema_decay).
      model: the name of the harness' folder of results; not read here.
      **others: refused, except those that the harness passes by default.

    Raises:
      CheckpointUnusable: the checkpoint is damaged.
      UsageError: an argument is unknown or out of range.
      UserError: there is no checkpoint, or its tokenizer is missing.
    """
    super().__init__()
    del model
    harness.refuse_others(others)
    # The harness would fork this process, and JAX deadlocks in a fork.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    self.pauses = PromptPauses(
      num_pauses=num_pauses, position=position, filler=filler
    )
    self.max_gen_toks = arguments.whole_number("max_gen_toks", max_gen_toks, 1)
    errors.require_one_of("average", average, (True, False))
    saved = saved_run.find_run(
      os.fspath(checkpoint),
      "checkpoint",
      average=average,
      average_name="average",
    )
    if dtype:
      shape = dataclasses.replace(saved.model, dtype=dtype)
      saved = dataclasses.replace(saved, model=shape)
    self.max_length = arguments.whole_number(
      "max_length",
      saved.model.max_seq_len if max_length is None else max_length,
      1 + saved.behind_tokens.period,
      saved.model.max_seq_len,
    )
    self._saved, self._tokenizer = saved, saved.tokenizer
    self._encode = hf_tokenizer.prompt_encoder(
      saved.tokenizer, saved.tokenizer_spec
    )
    errors.require_one_of("add_bos_token", add_bos_token, (True, False))
    self.add_bos_token = add_bos_token
    saved.warn_of_pauses(self.pauses.num_pause_tokens)
    self._load(batch_size)

  def _load(self, batch_size: Any) -> None:
    """Loads the parameters onto all devices."""
    accelerators.require_used()
    import jax

    from pausejax import sharding
    from pausejax.inference.requests import RequestRunner

    self._mesh = sharding.data_mesh()
    with jax.set_mesh(self._mesh):
      devices = sharding.num_shards("data")
      self.batch_size = harness.whole_batch(batch_size, devices)
      self._runner = RequestRunner(
        model=self._saved.load(),
        tokenizer=self._tokenizer,
        filler=prompts.Filler(
          self._tokenizer, self.pauses, self._saved.behind_tokens
        ),
        max_length=self.max_length,
        batch_size=self.batch_size,
      )

  @property
  def eot_token_id(self) -> int:
    """The id of EOS."""
    return self._tokenizer.eos_id

  @property
  def prefix_token_id(self) -> int:
    """The id that stands for an empty context: BOS."""
    return self._tokenizer.bos_id

  @property
  def tokenizer_name(self) -> str:
    """A name of the tokenizer, by which the harness caches prompts."""
    return harness.short_digest(self._tokenizer.fingerprint())

  def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
    """Refuses; raises UsageError."""
    raise errors.UsageError(
      "--apply_chat_template: a pausejax model has no chat template; export "
      "the run (pausejax export) and evaluate the export with --model hf"
    )

  def get_model_info(self) -> dict[str, Any]:
    """Returns what the harness adds to the config of its results."""
    return {
      **harness.description(self._saved, self.pauses),
      "fingerprint": self._fingerprint,
      "add_bos_token": self.add_bos_token,
      "dtype": self._dtype,
      "max_length": self.max_length,
      "num_truncated": self._runner.num_truncated,
      "num_truncated_tokens": self._runner.num_truncated_tokens,
      "pausejax": pausejax.__version__,
    }

  @property
  def _fingerprint(self) -> str:
    return harness.fingerprint(
      self._saved,
      self.pauses.condition(),
      self.add_bos_token,
      self.max_length,
      self.max_gen_toks,
      self._dtype,
    )

  @property
  def _dtype(self) -> str:
    from pausejax.model import products

    return products.compute_dtype(self._saved.model.dtype)

  def set_cache_hook(self, cache_hook: Any) -> None:
    """Keeps the answers of each model and condition apart in --use_cache.

    The harness finds an answer by its request only, and would return those of
    another checkpoint or another number of pauses.
    """
    super().set_cache_hook(cache_hook)
    if cache_hook.dbdict is not None:
      own = self._fingerprint
      # The harness' own reads and writes go through the same object.
      cache_hook.dbdict.encode_key = lambda key: f"{own}-{key}"

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
  ) -> list[int]:
    """Returns the ids of a text, with BOS if asked for or by default.

    The text of a special token is that token. By default, a text that begins
    with BOS gets no second one.
    """
    del kwargs
    bos, ids = [self._tokenizer.bos_id], self._encode([string])[0]
    if add_special_tokens is None:
      add_special_tokens = self.add_bos_token and ids[:1] != bos
    return bos + ids if add_special_tokens else ids

  def _loglikelihood_tokens(
    self, requests: Sequence[tuple], **kwargs: Any
  ) -> list[tuple[float, bool]]:
    """Answers (texts, ids of the context, ids of the continuation)."""
    del kwargs
    for texts, _, continuation in requests:
      errors.require(
        bool(continuation), f"a continuation has no tokens: {texts[1]!r:.60}"
      )
    answers: list[Any] = [None] * len(requests)

    def keep(i: int, answer: tuple[float, bool]) -> None:
      answers[i] = answer
      self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)

    bos = [self.prefix_token_id]  # Of white space, nothing may be left.
    pairs = [(context or bos, ids) for _, context, ids in requests]
    self._run(pairs, "log_likelihoods", keep)
    return answers

  def loglikelihood_rolling(
    self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[float]:
    """Returns the log-likelihood of each whole text, in nats.

    The windows are those of `--model hf`, which predicts BOS, too, if texts
    start with it; a run with pauses after tokens does not. Every token is
    predicted once.

    Raises:
      UsageError: `num_pauses` is not 0.
    """
    del disable_tqdm
    errors.require(
      self.pauses.num_pauses == 0,
      f"num_pauses={self.pauses.num_pauses}: a rolling log-likelihood has no "
      "context for pauses to follow; use num_pauses=0, or score text with "
      "pauses by pausejax evaluate --text",
    )
    windows = [
      (i, utils.make_disjoint_window(pair))
      for i, request in enumerate(requests)
      for pair in self._windows(request.args[0])
    ]
    answers = [0.0] * len(requests)

    def keep(place: int, answer: tuple[float, bool]) -> None:
      answers[windows[place][0]] += answer[0]

    self._run([pair for _, pair in windows], "log_likelihoods", keep)
    for request, answer in zip(requests, answers, strict=True):
      self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
    return answers

  def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
    behind = self._saved.behind_tokens
    # The prefix is BOS. In the text it would have pauses after it.
    add_bos = False if behind.num_per_token else None
    return utils.get_rolling_token_windows(
      token_list=self.tok_encode(text, add_bos),
      prefix_token=self.prefix_token_id,
      max_seq_len=self.max_length // behind.period,
      context_len=1,
    )

  def generate_until(
    self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[str]:
    """Returns the greedily decoded text of each request.

    Raises:
      UsageError: a request asks for another decoding, or does not fit.
    """
    del disable_tqdm
    by_limits: dict[harness.Generation, list[int]] = {}
    for i, request in enumerate(requests):
      limits = harness.parse_generation(request.args[1], self.max_gen_toks)
      by_limits.setdefault(limits, []).append(i)
    contexts = [
      self.tok_encode(request.args[0]) or [self.prefix_token_id]
      for request in requests
    ]
    answers = [""] * len(requests)
    for limits, places in by_limits.items():

      def keep(place: int, answer: str, places=places) -> None:
        i = places[place]
        answers[i] = answer
        self.cache_hook.add_partial("generate_until", requests[i].args, answer)

      here = [contexts[i] for i in places]
      self._run(here, "generate", keep, **limits._asdict())
    return answers

  def _run(
    self, requests: Sequence[Any], method: str, keep: Keep, **limits: Any
  ) -> None:
    """Calls `keep` with the index and the answer of each request."""
    import jax

    if not distributed.is_single_process():
      distributed.require_agreement(
        {"requests": harness.short_digest([requests, limits])}
      )
    runner, total = self._runner, len(requests)
    before = runner.num_truncated, runner.num_truncated_tokens
    with jax.set_mesh(self._mesh), CountBar("requests", total) as bar:
      answered = getattr(runner, method)(requests, **limits)
      for done, (i, answer) in enumerate(answered, start=1):
        keep(i, answer)
        bar.update(done, total)
    cut = runner.num_truncated - before[0]
    if cut:
      num_tokens = runner.num_truncated_tokens - before[1]
      print(
        f"pausejax: {cut:,} of {total:,} contexts truncated on the left, by "
        f"{num_tokens:,} tokens in all",
        file=sys.stderr,
      )


def run_command_line(
  words: Sequence[str], model_args: dict[str, Any], local_dir: str
) -> None:
  """Runs the harness' `run` with a pausejax model and the project's tasks.

  Args:
    words: arguments of the harness, without --model and --model_args.
    model_args: arguments of `PauseJaxLM`.
    local_dir: folder of the published files of the project's tasks, or "".

  Raises:
    UsageError: the harness refuses the arguments.
  """
  sys.argv = ["lm-eval", "run", *words]
  command = HarnessCLI()
  options = command.parse_args()
  harness.refuse_others({"device": options.device})
  options.model, options.model_args = "pausejax", model_args
  options.metadata = {"local_dir": local_dir, **(options.metadata or {})}
  options.include_path = [*_include_paths(options), str(TASKS)]
  if not hasattr(options, "batch_size"):
    options.batch_size = 32
  own = {path.stem for path in TASKS.glob("*.yaml")} | {"pausejax"}
  if options.tasks and {*options.tasks} <= own:
    # Indexing the harness' own tasks takes 20 s.
    tasks.TaskManager = functools.partial(
      tasks.TaskManager, include_defaults=False
    )
  try:
    command.execute(options)
  except ValueError as e:
    if isinstance(e, errors.UserError) or not _is_of_harness(e):
      raise
    raise errors.UsageError(f"lm-eval: {errors.first_line(e)}") from e


def _include_paths(options: Any) -> list[str]:
  """Returns the folders of tasks that the user gave."""
  given = options.include_path
  if options.config and not given:
    given = EvaluatorConfig.load_yaml_config(options.config).get("include_path")
  return [given] if isinstance(given, str) else list(given or [])


def _is_of_harness(error: Exception) -> bool:
  """Returns whether the harness itself raised an error."""
  frames = [*traceback.walk_tb(error.__traceback__)]
  return frames[-1][0].f_globals.get("__name__", "").startswith("lm_eval.")
