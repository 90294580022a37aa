"""Tasks: one file each, plain Python, registered by one call.

A pretraining task defines the source of its documents. A downstream task
defines the source of its records, how a record becomes a prefix and a target,
and the metrics of answers. The package derives the rest: pauses, packing,
finetuning, decoding or scoring, and the SeqIO task of the same name.

Your own task is such a file outside the package (docs/tasks.md): import it with
`--config.tasks_module=my_tasks` or an entry point of the group
"pausejax.tasks".
"""

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
  without_steps,
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
  "names",
  "option",
  "predictions_by_id",
  "pretraining",
  "register",
  "without_steps",
]
