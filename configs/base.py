"""Every field that pausejax knows, with its default and its meaning.

Other config files start from `get_config()` here and change what they need;
the command line changes the rest:

  pausejax train --config=configs/pretrain_c4.py --config.num_steps=1000 ...

The comment above a field is what `pausejax train --help` prints. Each sub-tree
is the keyword arguments of one class in `pausejax/config/schema.py`.
"""

import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pausejax import errors

# The paper's shapes (its table 5); "tiny" is for laptops.
SIZES = {
  "tiny": dict(num_layers=4, d_model=128, num_heads=4),
  "130m": dict(num_layers=12, d_model=768, num_heads=12),
  "1b": dict(num_layers=24, d_model=2048, num_heads=32),
}


def get_config(arg: str = "") -> Any:
  """Returns the whole tree, locked; `arg` is not used."""
  parse_arg(arg)
  c = ConfigDict()
  # Seeds parameters, order of the data and places of the pauses.
  c.seed = 0
  # Optimizer steps of the whole run.
  c.num_steps = 100_000
  # Save and leave after this step, as a time limit would; 0: run to the end.
  c.stop_at_step = 0
  # Rows of the global batch, over all devices and hosts.
  c.batch_size = 256
  # Workdir of a run (or one of its checkpoints/STEP) to take parameters from.
  c.init_from = ""
  # Python module that registers tasks of your own (docs/tasks.md).
  c.tasks_module = ""

  c.data = ConfigDict()
  # Task; `pausejax tasks list` shows all. By rate: gsm8k=1,squad=3.
  c.data.task = "c4"
  # Rates from later steps on, pretraining: 50000:c4=1,text=3;80000:text=1.
  c.data.later_rates = ""
  # segments: prepared once, batch a function of the step; seqio: streamed.
  c.data.door = "segments"
  # "bytes", a SentencePiece .model, or a Hugging Face tokenizer.json.
  c.data.tokenizer = "bytes"
  # Positions of a training sequence, pauses among them.
  c.data.seq_len = 2048
  # Pauses as a fraction of seq_len; 0 is standard pretraining.
  c.data.pause_fraction = 0.1
  # insert_trim: lengthen, then trim (the paper); exact: no text displaced.
  c.data.pause_mode = "insert_trim"
  # Prepared segments (of several tasks: c4=FOLDER,text=FOLDER); empty: made
  # under the workdir when first needed.
  c.data.segments_dir = ""
  # Folder, glob or files (comma-separated) of .txt, .jsonl, .json, + .gz.
  c.data.files = ""
  # The same for held-out text, left out of files; empty: see holdout_every.
  c.data.validation_files = ""
  # Field of a JSON line or TFDS example that holds the text.
  c.data.field = "text"
  # One document in so many is held out where no validation files are given.
  c.data.holdout_every = 20
  # TensorFlow Datasets name with its version, for the task c4.
  c.data.tfds_name = "c4/en:3.1.0"
  # Folder of prepared TFDS data; empty: TFDS's own default.
  c.data.tfds_data_dir = ""
  # Downstream tasks: folder of the published files; empty: TFDS by name.
  c.data.local_dir = ""
  # Segments in the shuffle buffer of the seqio door.
  c.data.shuffle_buffer = 1000
  # Batches made ahead of the step.
  c.data.prefetch = 4

  c.finetune = ConfigDict()
  # Pauses of every example, M; -1: the task's own number.
  c.finetune.num_pauses = -1
  # append: behind the prefix; prepend: before it.
  c.finetune.pause_position = "append"
  # Text of one token in place of <pause>, such as "."; empty: <pause>.
  c.finetune.filler = ""
  # Whether the pauses belong to a bidirectional prefix.
  c.finetune.pauses_in_prefix = False
  # <pause> row of a checkpoint that saw none: mean of all rows, normal, keep.
  c.finetune.pause_init = "mean"
  # Train also on the hints of tasks that have some: targets on the pauses.
  c.finetune.hints = True
  # Several examples a row, attention never crossing; False: one a row.
  c.finetune.packing = True

  c.model = ConfigDict()
  # Blocks.
  c.model.num_layers = 12
  # Width of the residual stream.
  c.model.d_model = 768
  # Query heads; divides d_model.
  c.model.num_heads = 12
  # Key and value heads; divides num_heads. Fewer is grouped-query attention.
  c.model.num_kv_heads = c.model.get_oneway_ref("num_heads")
  # Width of the feed-forward.
  c.model.d_ff = c.model.get_oneway_ref("d_model") * 4
  # Longest sequence that learned positions allow, pauses included.
  c.model.max_seq_len = c.data.get_oneway_ref("seq_len")
  # learned or rope.
  c.model.position = "learned"
  # Base of the rotary wavelengths.
  c.model.rope_theta = 10_000.0
  # layernorm or rmsnorm, before each half of a block.
  c.model.norm = "layernorm"
  # gelu or swiglu.
  c.model.mlp = "gelu"
  # RMS norm of queries and keys, per head.
  c.model.qk_norm = False
  # Biases in linear layers and layer norms.
  c.model.bias = True
  # One matrix for embedding and head.
  c.model.tied_embeddings = False
  # Attend within equal segment_ids only (packed examples).
  c.model.segment_attention = False
  # causal, or bidirectional: positions of the prefix see all of the prefix.
  c.model.prefix_attention = "causal"
  # Kernel: auto by backend, or xla, splash (TPU), cudnn (GPU, bfloat16).
  c.model.attention = "auto"
  # Compute dtype, float32 or bfloat16; auto: float32 on CPUs, else bfloat16.
  # Parameters are always float32.
  c.model.dtype = "auto"
  # Recomputed by the backward pass: none, names (norms, GELU, softmax), full.
  c.model.remat = "names"
  # Layers unrolled per iteration of the scan over layers.
  c.model.scan_unroll = 1

  c.optim = ConfigDict()
  # Any optimizer of optax or optax.contrib.
  c.optim.name = "adamw"
  # Its keyword arguments; add or change one, or give a JSON object.
  c.optim.kwargs = ConfigDict(dict(b1=0.9, b2=0.95, weight_decay=0.1))
  # Peak, per step, after the warm-up.
  c.optim.learning_rate = 3e-4
  # cosine, linear, rsqrt, wsd or constant.
  c.optim.schedule = "cosine"
  # Steps of linear warm-up.
  c.optim.warmup_steps = c.get_oneway_ref("num_steps") // 50
  # Steps of linear decay at the end of wsd.
  c.optim.decay_steps = 0
  # Last learning rate as a fraction of the peak (cosine, linear, wsd).
  c.optim.final_fraction = 0.1
  # Largest global norm of the gradient; 0: no clipping.
  c.optim.clip_norm = 1.0
  # Matrices with one of these logical axes get weight decay.
  c.optim.decay_axes = ("heads", "kv_heads", "mlp", "vocab")
  # Multiplies the learning rate of the token and position embeddings.
  c.optim.embedding_lr_multiplier = 1.0
  # Multiplies that of the head; tied embeddings have no head of their own.
  c.optim.head_lr_multiplier = 1.0
  # Parts of a batch whose gradients are summed before the update.
  c.optim.num_microbatches = 1
  # Steps in a row with a loss or gradient that is not finite (each is skipped)
  # after which the run stops with exit code 4; 0: never.
  c.optim.max_skipped_in_a_row = 20

  c.loss = ConfigDict()
  # Chunks of positions whose logits exist at one time; divides seq_len.
  c.loss.num_chunks = 8
  # Weight of log(Z)^2; 0: none.
  c.loss.z_loss = 0.0

  c.mesh = ConfigDict()
  # Devices that hold copies of the parameters; -1: all that are left.
  c.mesh.data = -1
  # Devices over which parameters and batch are split.
  c.mesh.fsdp = 1
  # Devices over which parameters and positions are split: long sequences.
  c.mesh.sequence = 1
  # Devices over which heads, feed-forward and vocabulary are split.
  c.mesh.tensor = 1

  c.checkpoint = ConfigDict()
  # Steps between checkpoints.
  c.checkpoint.every = 1000
  # Newest checkpoints to keep.
  c.checkpoint.keep = 3
  # Also keep every step that this divides; 0: none.
  c.checkpoint.keep_period = 0
  # Finetuning: best checkpoints to keep, by the task's first metric.
  c.checkpoint.keep_best = 0

  c.eval = ConfigDict()
  # Steps between measurements of the held-out loss; 0: only at the end.
  c.eval.every = 1000
  # Batches of held-out text to measure on; 0: all.
  c.eval.num_batches = 50
  # Finetuning: held-out examples to answer each time; 0: none.
  c.eval.num_examples = 0
  # Examples answered at a time.
  c.eval.batch_size = 32

  c.log = ConfigDict()
  # Steps between lines of metrics.jsonl.
  c.log.every = 1
  # Also write TensorBoard events (extra: tensorboard).
  c.log.tensorboard = False
  return c.lock()


# In place of an argument: raises UnknownArgument, which has the choices.
ASK = "?"


class UnknownArgument(errors.UsageError):
  """A config takes no argument of this name.

  Attributes:
    choices: those that it takes, as given to `parse_arg`.
  """

  def __init__(self, key: str, choices: Mapping[str, tuple | str | int]):
    super().__init__(
      f"config argument: unknown value {key!r}{errors.nearest(key, choices)}"
    )
    self.choices = choices


def parse_arg(arg: str, **choices: tuple | str | int) -> types.SimpleNamespace:
  """Parses the text behind the colon of --config=file.py:key=value,key=value.

  Args:
    arg: the text; a key that is left out takes its first choice.
    **choices: key -> its allowed values, all strings or (True, False); or a
      default, where any text or whole number will do. `--help` lists them.

  Raises:
    UsageError: an unknown key or value, or a key that comes twice; the message
      names the nearest.
  """
  values = {k: c[0] if isinstance(c, tuple) else c for k, c in choices.items()}
  given = [part.partition("=") for part in arg.split(",") if part]
  for place, (key, _, text) in enumerate(given):
    if key not in choices:
      raise UnknownArgument(key, choices)
    errors.require(
      key not in [k for k, _, _ in given[:place]],
      f"config argument {key}: given twice in {arg!r}",
    )
    values[key] = _argument(key, text, choices[key])
  return types.SimpleNamespace(**values)


def _argument(key: str, text: str, choice: tuple | str | int) -> Any:
  if isinstance(choice, int):
    errors.require(
      text.removeprefix("-").isdecimal(),
      f"config argument {key}: expected a whole number, got {text!r}",
    )
    return int(text)
  if isinstance(choice, str):
    errors.require(bool(text), f"config argument {key}: got no value")
    return text
  words = {str(v).lower(): v for v in choice}
  errors.require_one_of(f"config argument {key}", text.lower(), words)
  return words[text.lower()]
