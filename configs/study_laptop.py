"""The paper's experiment on a laptop: four hours on two cores, resumable.

  pausejax study --config=configs/study_laptop.py:books=/books \\
    --workdir=runs/laptop
  pausejax report --workdir=runs/laptop

`books` is a folder of .txt files, one a book, such as plain-text files of
Project Gutenberg (https://www.gutenberg.org). One book in seven is held out.
Without it, text and passages are those inside CPython.

A decoder of 350,000 parameters is pretrained for 300 steps, with and without
pauses, three seeds each, and finetuned with and without eight pauses for 100
steps, five seeds, on four tasks. Controls: eight "." and the question again in
place of pauses, and a deeper model with the FLOPs of eight pauses. All runs of
the first finetuning seed come first, so a table of all variants is ready early.
Two processes, each on a core of its own, are faster than one on both:

  taskset -c 0 pausejax study ... --shard=1/2
  taskset -c 1 pausejax study ... --shard=2/2

docs/study.md describes the tasks, docs/study_laptop.md a run. The model is far
smaller than the paper's.
"""

import pathlib
import shlex

from pausejax import config
from pausejax.runtime import flops

_SHAPE = dict(num_layers=4, d_model=64, num_heads=4)
_NUM_PAUSES = 8
_PROMPT_LEN = 32  # Tokens of a passage, for the layers with equal FLOPs.
_TOKENIZER = (
  "--config.data.tokenizer={workdir}/prepare/tokenizer/tokenizer.model"
)
# Positions and examples of a batch in finetuning: the longest prompt, up to 12
# pauses and the answer fit.
_MADE = {"mod5": (24, 32), "most_frequent": (32, 32), "median": (24, 32)}
_PASSAGES = (64, 16)


def get_config(arg: str = ""):
  """Returns the study; `arg` is books=FOLDER."""
  choice = config.parse_arg(arg, books="")
  c = config.load_config("study:only=table")
  c.title = "Laptop study"
  text, passages, first = "", "", "stdlib_cloze"
  if choice.books:
    folder = shlex.quote(str(pathlib.Path(choice.books).resolve()))
    held_out = "--config.data.holdout_every=7"
    text = f"--config.data.task=text --config.data.files={folder} {held_out}"
    passages = f"--config.data.local_dir={folder} {held_out}"
    first = "book_words"
  shapes = {first: _PASSAGES, **_MADE}
  c.tasks = tuple(shapes)
  words = {task: passages if task == first else "" for task in shapes}
  c.task_words = {
    task: (
      f"--config.data.seq_len={seq_len} --config.batch_size={batch_size} "
      f"--config.data.segments_dir={{workdir}}/prepare/{task}/store",
      words[task],
    )
    for task, (seq_len, batch_size) in shapes.items()
  }
  _set_prepare(c, text, words)
  _set_pretrainings(c, text)
  _set_finetunings(c)
  return c


def _set_prepare(c, text: str, words) -> None:
  """Sets what is made once: the vocabulary, and all text and tasks in ids."""
  store = "--out={workdir}/prepare/NAME/store"
  c.prepare = (
    (
      "tokenizer",
      f"tokenizer train --config=smoke {text} --vocab_size=1024 "
      "--out={workdir}/prepare/tokenizer/tokenizer.model",
    ),
    (
      "text",
      f"segments --config=smoke {text} {_TOKENIZER} --config.data.seq_len=128 "
      f"{store.replace('NAME', 'text')}",
    ),
    *(
      (
        task,
        f"segments --config=finetune_smoke:task={task} {_TOKENIZER} {more} "
        f"{store.replace('NAME', task)}",
      )
      for task, more in words.items()
    ),
  )


def _set_pretrainings(c, text: str) -> None:
  """Sets the pretrainings, one of them with more layers in place of pauses."""
  smoke = config.load_config("smoke")
  smoke.model.update(_SHAPE)
  model = config.train_config(smoke.to_dict()).model_config(1024)
  num_layers = flops.equal_layers(model, _PROMPT_LEN, _NUM_PAUSES)
  c.pretrainings = dict(
    std=("smoke:pause=false", _words(_SHAPE)),
    pause=("smoke:pause=true", _words(_SHAPE)),
    deeper=("smoke:pause=false", _words(_SHAPE | {"num_layers": num_layers})),
  )
  c.pretrain_seeds = (0, 1, 2)
  c.pretrain_words = (
    f"{text} {_TOKENIZER} --config.data.seq_len=128 "
    "--config.data.segments_dir={workdir}/prepare/text/store "
    "--config.num_steps=300 --config.batch_size=32 "
    "--config.checkpoint.every=100 --config.eval.every=0"
  )


def _set_finetunings(c) -> None:
  """Sets the finetunings, their evaluations and the rows of the table."""
  finetune, m = "finetune_smoke:task={task}", _NUM_PAUSES
  c.finetunings = dict(
    m0=(f"{finetune},pauses=0",), m8=(f"{finetune},pauses={m}",)
  )
  c.seeds = (0, 1, 2, 3, 4)
  c.finetune_words = (
    "--config.finetune.packing=false --config.num_steps=100 "
    "--config.optim.learning_rate=2e-3 --config.optim.warmup_steps=10 "
    "--config.eval.num_batches=1 --config.checkpoint.every=100"
  )
  c.evaluate_words = "--batch_size=250"
  c.evaluations = dict(
    m0=(f"--pauses={m} --filler=.", f"--pauses={m} --filler=<question>"),
    m8=("--pauses=0,1,2,4,12",),
  )
  c.variants = (
    ("StdPT_StdFT", "std", "m0"),
    ("StdPT_PauseFT", "std", "m8"),
    ("PausePT_StdFT", "pause", "m0"),
    ("PausePT_PauseFT", "pause", "m8"),
    ("StdPT_StdFT_dots", "std", "m0", "filler=."),
    ("StdPT_StdFT_question", "std", "m0", "filler=<question>"),
    ("DeeperPT_StdFT", "deeper", "m0"),
  )


def _words(shape) -> str:
  """Returns the arguments that set the shape of a model."""
  return " ".join(f"--config.model.{k}={v}" for k, v in shape.items())
