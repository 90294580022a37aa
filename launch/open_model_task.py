"""Writes a small task for lm-evaluation-harness; it needs no network.

  python -m launch.open_model_task folder

Used by `make demo-open-model`. The task is `stdlib_choice`: which line
documents a function of the standard library.
"""

import itertools
import json
import pathlib
import sys

from pausejax.tasks import stdlib_choice

_YAML = """\
task: pausejax_demo_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {path}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{signature}}}}"
doc_to_choice: options
doc_to_target: label
target_delimiter: "\\n"
metric_list:
  - metric: acc
"""


def main(folder: pathlib.Path, num_examples: int) -> None:
  """Writes the task and its examples to a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  path = (folder / "choice.jsonl").resolve()
  records = itertools.islice(stdlib_choice.choices("validation"), num_examples)
  path.write_text("".join(json.dumps(r) + "\n" for r in records))
  (folder / "choice.yaml").write_text(_YAML.format(path=path))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
