"""Coconut's controls: pauses in place of worked steps, on GSM8K.

  pausejax study --config=configs/study_curriculum.py:size=130m \\
    --workdir=/runs/curriculum --config.local_dir=/data \\
    --config.pretrain_words="--config.data.segments_dir=/data/c4-segments \\
    --config.data.tokenizer=/data/cc_all.32000.model"

One pretraining without pauses, and five finetunings of it:

  direct      the answer without steps and pauses ("No-CoT")
  pause       the answer after six pauses ("pause token")
  removed     steps removed one a stage, without pauses ("w/o thought")
  curriculum  two pauses in place of each of three steps ("pause as thought")
  cot         the worked solution, then the answer ("CoT")

Hao et al. (arXiv 2412.06769) report accuracies of 16.5% for direct, 16.4% for
pause, 24.1% for curriculum and 42.9% for cot, with GPT-2 and more examples than
GSM8K has. Steps, pauses per step and epochs of a stage are those of their code,
which starts from a model finetuned on worked solutions. This project has not
trained this config.
"""

from pausejax import config
from pausejax.study.config import StudyConfig

_STEPS = "--config.finetune.curriculum_steps=3"
_ANSWERS = f"{_STEPS} --config.finetune.curriculum_epochs=0"


def get_config(arg: str = ""):
  """Returns the study; `arg` is size=130m|1b."""
  choice = config.parse_arg(arg, size=("130m", "1b"))
  finetune = "finetune:task={task}"
  c = config.default(StudyConfig)
  c.title = f"Pauses in place of worked steps, {choice.size}"
  c.pretrainings = dict(std=(f"pretrain_c4:size={choice.size},pause=false",))
  c.tasks = ("gsm8k",)
  c.finetunings = dict(
    direct=(f"{finetune},pauses=0", _ANSWERS),
    pause=(f"{finetune},pauses=6", _ANSWERS),
    removed=(f"{finetune},pauses=0", _STEPS),
    curriculum=(f"{finetune},pauses=6", _STEPS),
    cot=(f"{finetune},pauses=0",),
  )
  c.evaluations = dict(curriculum=("--pauses=0,2,4",))
  c.seeds = (0, 1, 2, 3, 4)
  c.variants = tuple((name, "std", name) for name in c.finetunings)
  return c
