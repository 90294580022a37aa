"""The paper's experiment: four variants, M in {10, 50}, five seeds, nine tasks.

  pausejax study --config=configs/study.py:size=130m --workdir=/runs/study \\
    --config.local_dir=/data --config.pretrain_words="\\
    --config.data.segments_dir=/data/c4-segments \\
    --config.data.tokenizer=/data/cc_all.32000.model"
  pausejax study --config=configs/study.py --workdir=/runs/study --dry_run

The study may be killed and started again; finished cells are not repeated.
`--dry_run` prints one command per cell, for a cluster; `--shard=2/8` runs the
second eighth. Pretrainings, finetunings and evaluations are arguments of
`pausejax train` or `pausejax evaluate`, where {task} stands for the task, so an
ablation is one more line here. `only=table` omits the ablations.
"""

from pausejax import config
from pausejax.runtime import flops
from pausejax.study.config import StudyConfig

NINE = (
  "squad",
  "commonsense_qa",
  "natural_questions",
  "lambada",
  "web_questions",
  "coqa",
  "gsm8k",
  "piqa",
  "hellaswag",
)

# Tokens of a typical prompt, for models with the FLOPs of pauses.
PROMPT_LEN = 120

# Rows of the table: name, pretraining, and the finetunings, of which the best
# is shown. Differences are to the first row.
FOUR_VARIANTS = (
  ("StdPT_StdFT", "std", "m0"),
  ("StdPT_PauseFT", "std", "m10", "m50"),
  ("PausePT_StdFT", "pause", "m0"),
  ("PausePT_PauseFT", "pause", "m10", "m50"),
)


def get_config(arg: str = ""):
  """Returns the study; `arg` is size=1b|130m,only=all|table."""
  choice = config.parse_arg(arg, size=("1b", "130m"), only=("all", "table"))
  pretrain = f"pretrain_c4:size={choice.size}"
  finetune = "finetune:task={task}"
  c = config.default(StudyConfig)
  c.title = f"Pause training, {choice.size}"
  c.pretrainings = dict(
    std=(f"{pretrain},pause=false",),
    pause=(f"{pretrain},pause=true",),
  )
  c.tasks = NINE
  c.finetunings = dict(
    m0=(f"{finetune},pauses=0",),
    m10=(f"{finetune},pauses=10",),
    m50=(f"{finetune},pauses=50",),
  )
  c.evaluations = dict(m10=("--pauses=0,2,5,25,50",))
  c.seeds = (0, 1, 2, 3, 4)
  c.variants = FOUR_VARIANTS
  if choice.only == "all":
    _add_ablations(c, pretrain, finetune)
  return c


def _add_ablations(c, pretrain: str, finetune: str) -> None:
  """Adds the paper's ablations and further controls, each as one more arm."""
  # More layers in place of pauses, at the FLOPs of a prompt with M pauses: two
  # more for 10 pauses in the 1B model (section 4); and two loops over layers
  # with half of the parameters.
  loaded = config.train_config(config.load_config(pretrain).to_dict())
  model = loaded.model_config(vocab_size=1)
  for m in (10, 50):
    deeper, looped = (
      f"--config.model.num_layers={flops.equal_layers(model, PROMPT_LEN, m, n)}"
      for n in (1, 2)
    )
    looped += " --config.model.num_loops=2"
    c.pretrainings[f"std_deeper{m}"] = (f"{pretrain},pause=false", deeper)
    c.pretrainings[f"std_looped{m}"] = (f"{pretrain},pause=false", looped)
  # The other reading of "10%": no text displaced.
  c.pretrainings.pause_exact = (
    f"{pretrain},pause=true",
    "--config.data.pause_mode=exact",
  )
  for m in (2, 5, 25, 100):
    c.finetunings[f"m{m}"] = (f"{finetune},pauses={m}",)
  prepend = "--config.finetune.pause_position=prepend"
  c.finetunings.prepend10 = (f"{finetune},pauses=10", prepend)
  c.finetunings.prepend50 = (f"{finetune},pauses=50", prepend)
  # A model that is to answer with any number of pauses.
  drawn = "--config.finetune.train_num_pauses=0-50"
  c.finetunings.drawn50 = (f"{finetune},pauses=50", drawn)
  # Text in place of <pause>, at inference only, on the standard model.
  c.evaluations.m0 = (
    "--pauses=10,50 --filler=.",
    "--pauses=10,50 --filler=<question>",
  )
  c.variants += (
    ("StdPT_StdFT_dots", "std", "m0", "filler=."),
    ("StdPT_StdFT_question", "std", "m0", "filler=<question>"),
    ("PausePT_DrawnFT", "pause", "drawn50"),
    *((f"Deeper{m}PT_StdFT", f"std_deeper{m}", "m0") for m in (10, 50)),
    *((f"Looped{m}PT_StdFT", f"std_looped{m}", "m0") for m in (10, 50)),
    ("ExactPT_PauseFT", "pause_exact", "m10", "m50"),
    ("PausePT_PrependFT", "pause", "prepend10", "prepend50"),
    *((f"PausePT_M{m}", "pause", f"m{m}") for m in (2, 5, 10, 25, 50, 100)),
  )
