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
_UNITS = "units/"  # Notes on the units that are done.


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
def building_shard(
  url: str, shard: tuple[int, int]
) -> Iterator[tuple[pathlib.Path, dict[str, int]]]:
  """Yields a local folder to build a part of a store in, and uploads the part.

  Of the units that other machines have built, only the notes are downloaded.

  Args:
    url: a URL that `urls.normal` returned.
    shard: (i, n), the part of this machine.

  Yields:
    (the folder, the size in bytes of every file that is in the bucket).

  Raises:
    UserError: another process builds this part, or the bucket cannot be read or
      written.
  """
  name = "{}-of-{}".format(*shard)
  folder = urls.local_folder(url, f"store-{name}")
  objects = Objects(url)
  with _uploading(objects, folder, Objects(f"{url}/{_UNITS}shard-{name}")):
    _follow(objects, folder, f"{_UNITS}store.json", below=_UNITS)
    with copies.reading(url):
      sizes = objects.sizes()
    yield folder, sizes


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
  with _uploading(objects, folder, objects):
    _follow(objects, folder, _INDEX)
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield folder


def _follow(
  objects: Objects, folder: pathlib.Path, mark: str, below: str = ""
) -> None:
  """Updates the copy of a store that has an object of the name `mark`.

  Removes the copy of a store that had it and was deleted.
  """
  with copies.reading(objects.url):
    if mark in objects.sizes():
      copies.update_all(objects, folder, below)
    elif copies.was_copied(folder, mark):
      shutil.rmtree(folder)


@contextlib.contextmanager
def _uploading(
  objects: Objects, folder: pathlib.Path, leased: Objects
) -> Iterator[None]:
  """Uploads a folder at the end, if the lease in `leased` is still held."""
  with (
    lease.hold_lease(leased, lambda: None, "--out") as held,
    copies.named(objects.url, folder),
  ):
    yield
    held.require()
    with copies.writing(objects.url):
      mirror.retried(
        lambda: copies.upload_changed(objects, folder, last=_INDEX),
        f"write {objects.url}",
      )
