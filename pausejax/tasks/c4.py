"""C4, English: the paper's pretraining text (Raffel et al., 2020).

  {"text": "Beginners BBQ Class Taking Place in Missoula!\\nDo you want to ...",
   "timestamp": "2019-04-25T12:57:54Z", "url": "https://klyq.com/beginners..."}

From TensorFlow Datasets (`data.tfds_name`, for example c4/en:3.0.1 prepared
under `data.tfds_data_dir`), or, when `data.files` is set, from the published
shards: en/c4-train.00000-of-01024.json.gz and so on, en/c4-validation.*.
https://huggingface.co/datasets/allenai/c4, license ODC-BY.
"""

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.tasks import corpora


def source(data: DataConfig) -> corpora.CorpusSource:
  """Returns the published shards if `data.files` names them, else TFDS."""
  if data.files:
    return corpora.FileSource(
      train=data.files,
      validation=data.validation_files,
      field=data.field,
      holdout_every=data.holdout_every,
    )
  errors.require(
    ":" in data.tfds_name,
    f"data.tfds_name: needs a version, as in c4/en:3.0.1, got "
    f"{data.tfds_name!r}",
  )
  return corpora.TfdsSource(
    name=data.tfds_name, data_dir=data.tfds_data_dir, field=data.field
  )


tasks.register(tasks.PretrainingTask("c4", source))
