"""The SeqIO package: text, vocabulary and pauses as tf.data pipelines.

TensorFlow is used only here. Other modules import these inside functions, so
the segments pipeline never loads them.

  pauses.py         `pausejax.pause_places` in TensorFlow, equal bit for bit
  vocabulary.py     `pausejax.data.tokenizers` as a SeqIO vocabulary
  sources.py        `pausejax.tasks.corpora` as SeqIO data sources
  preprocessors.py  tokenize, cut into segments, insert pauses
  pretraining.py    the SeqIO tasks "<task>" and "<task>_pause"
  downstream.py     downstream tasks as SeqIO tasks and mixtures
  stream.py         `SeqioBatches`: the pipeline "seqio" of training

The accelerator belongs to JAX: importing this package hides GPUs from
TensorFlow.
"""

import importlib
import os

from pausejax import errors
from pausejax.data import library_logs

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
  with library_logs.filtered():
    importlib.import_module("seqio")  # With TensorFlow Text and TFDS.
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
except ModuleNotFoundError as e:
  raise errors.UserError(
    f"data.pipeline=seqio and TFDS need the module {e.name!r}: make env, or "
    "pip install '.[seqio]' in the clone; or read files through "
    "data.pipeline=segments"
  ) from e
