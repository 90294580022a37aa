"""Stores of segments and of examples in a bucket.

A store is read from, and built in, a copy on this machine. Its index.json is
uploaded last, so a store in a bucket that has one is complete.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from pausejax import errors, locks
from pausejax.buckets import copies, lease, mirror, urls
from pausejax.buckets.objects import Objects

_INDEX = "index.json"


def local_store(folder: os.PathLike | str, name: str) -> os.PathLike | str:
  """Returns a folder; of a URL of a bucket, the local copy of the store.

  What has changed in the bucket is downloaded.

  Args:
    folder: a local path or a URL.
    name: the option that gave it, for messages.

  Raises:
    UserError: there is no complete store, or the bucket cannot be read.
  """
  text = os.fspath(folder)
  if not urls.is_url(text):
    return folder
  url = urls.normal(name, text)
  copy = urls.local_folder(url, "store")
  copy.parent.mkdir(parents=True, exist_ok=True)
  objects = Objects(url)
  # The other processes of this machine read the same copy.
  with copies.reading(url), locks.hold_when_free(copy.parent / "lock"):
    if _INDEX not in objects.sizes():
      raise errors.UserError(
        f"{name}: no store in {url}; build it with `pausejax segments "
        "--config=... --out=...`"
      )
    copies.update_all(objects, copy)
  return copy


@contextlib.contextmanager
def building(url: str) -> Iterator[pathlib.Path]:
  """Yields a local folder to build a store in, and uploads what it holds.

  Args:
    url: a URL that `urls.normal` returned.

  Raises:
    UserError: another process builds there, or the bucket cannot be written.
  """
  folder = urls.local_folder(url, "store")
  objects = Objects(url)
  with (
    lease.hold_lease(objects, lambda: None, "--out") as held,
    copies.named(url, folder),
  ):
    with copies.reading(url):
      if _INDEX in objects.sizes():
        copies.update_all(objects, folder)
      elif copies.was_copied(folder, _INDEX):
        shutil.rmtree(folder)  # The copy of a store that was deleted.
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield folder
    held.require()
    with copies.writing(url):
      mirror.retried(
        lambda: copies.upload_changed(objects, folder, last=_INDEX),
        f"write {url}",
      )
