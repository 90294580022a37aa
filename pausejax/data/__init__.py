"""Data: text to batches of numpy arrays. Only `seqio/` uses TensorFlow."""

_MOVED = ("corpora", "file_lists", "records", "text_files")


def __getattr__(name: str):
  """Names the new place of a module that a task of 0.1.0 imports."""
  if name in _MOVED:
    raise ImportError(f"pausejax.data.{name} is now pausejax.tasks.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
