"""The study at laptop size: four variants, two tasks, two seeds.

  pausejax study --config=configs/study_smoke.py --workdir=runs/smoke_study
  pausejax report --workdir=runs/smoke_study

Takes less than ten minutes on two CPU cores: a decoder of 250,000 parameters is
pretrained on the text inside CPython, with and without pauses, and finetuned on
two tasks from the same corpus. It tests every part and shows the format of the
table. The numbers do not show the effect of pauses: the model is far too small
to answer.
"""

from pausejax import config

_MODEL = (
  "--config.model.num_layers=2 --config.model.d_model=64 "
  "--config.model.num_heads=4 --config.data.seq_len=192 "
  "--config.data.tokenizer={workdir}/prepare/tokenizer/tokenizer.model"
)


def get_config(arg: str = ""):
  """Returns the study; it has no arguments."""
  smoke = "smoke"
  finetune = "finetune_smoke:task={task}"
  config.parse_arg(arg)
  c = config.load_config("study:only=table")
  c.title = "Smoke study"
  c.prepare = (
    (
      "tokenizer",
      f"tokenizer train --config={smoke} --vocab_size=1024 "
      "--out={workdir}/prepare/tokenizer/tokenizer.model",
    ),
    (
      "segments",
      f"segments --config={smoke} {_MODEL} "
      "--out={workdir}/prepare/segments/store",
    ),
  )
  c.pretrain_words = (
    f"{_MODEL} --config.data.segments_dir={{workdir}}/prepare/segments/store "
    "--config.num_steps=200 --config.checkpoint.every=100"
  )
  c.finetune_words = "--config.num_steps=60 --config.eval.num_batches=5"
  c.evaluate_words = "--batch_size=64"
  c.pretrainings = dict(
    std=(f"{smoke}:pause=false",), pause=(f"{smoke}:pause=true",)
  )
  c.tasks = ("stdlib_cloze", "stdlib_choice")
  c.finetunings = dict(
    m0=(f"{finetune},pauses=0",), m10=(f"{finetune},pauses=10",)
  )
  c.evaluations = dict(m10=("--pauses=0,2,5,20",))
  c.seeds = (0, 1)
  c.variants = (
    ("StdPT_StdFT", "std", "m0"),
    ("StdPT_PauseFT", "std", "m10"),
    ("PausePT_StdFT", "pause", "m0"),
    ("PausePT_PauseFT", "pause", "m10"),
  )
  return c
