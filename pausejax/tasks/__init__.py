"""Tasks: one file each, plain Python, registered by one call.

A pretraining task says where its documents come from. A downstream task says
where its records come from, how a record becomes a prefix and a target, and by
which metrics answers are judged. Everything else follows: pauses, packing,
finetuning, decoding or scoring, the SeqIO task of the same name.

A task of your own is such a file outside the package (docs/tasks.md):
`--config.tasks_module=my_tasks` imports it, and so does an entry point of the
group "pausejax.tasks".
"""

from pausejax.tasks.mixtures import mixture, rate_stages
from pausejax.tasks.registry import (
  downstream,
  downstream_names,
  get,
  import_module,
  names,
  pretraining,
  register,
)
from pausejax.tasks.task import (
  ACCURACIES,
  KINDS,
  Example,
  Metric,
  PretrainingTask,
  Task,
  Unusable,
  option,
  predictions_by_id,
)

__all__ = [
  "ACCURACIES",
  "KINDS",
  "Example",
  "Metric",
  "PretrainingTask",
  "Task",
  "Unusable",
  "downstream",
  "downstream_names",
  "get",
  "import_module",
  "mixture",
  "names",
  "option",
  "predictions_by_id",
  "pretraining",
  "rate_stages",
  "register",
]
