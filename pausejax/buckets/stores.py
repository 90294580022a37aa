"""Stores of segments and of examples in a bucket.

A store is read from, and built in, a copy on this machine. Its index.json is
uploaded last, so a store in a bucket that has one is complete.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator

from pausejax import errors, json_files, locks
from pausejax.buckets import copies, lease, mirror, urls
from pausejax.buckets.objects import Objects

_INDEX, _HEAD = "index.json", "units/store.json"
_SUFFIX = ".array_record"
# The records of a unit, its note, and all that is kept on it.
_RECORDS = re.compile(r"[a-z]+-([0-9]+)\.array_record")
_NOTE = re.compile(r"units/unit-[0-9]+\.json")
_STATE = re.compile(r"units/(unit|count)-[0-9]+\.json")


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
def building(
  url: str, shard: tuple[int, int] = (1, 1)
) -> Iterator[tuple[pathlib.Path, dict[str, int]]]:
  """Yields a local folder to build a store in, and uploads what has changed.

  With several shards, only the notes on the units of other machines are
  downloaded, and the records of their units stay in the bucket.

  Args:
    url: a URL that `urls.normal` returned.
    shard: (i, n), the part of this machine.

  Yields:
    (the folder, name -> bytes of the records of finished units in the bucket).

  Raises:
    UserError: another process builds this part, or the bucket cannot be read or
      written, or has another store.
  """
  objects, part = Objects(url), "{}-of-{}".format(*shard)
  is_whole = shard == (1, 1)
  folder = urls.local_folder(url, "store" if is_whole else f"store-{part}")
  leased = objects if is_whole else Objects(f"{url}/units/shard-{part}")
  with lease.hold_lease(leased, lambda: None, "--out") as held:
    is_there = _follow(objects, folder, is_whole=is_whole)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with copies.reading(url):
      sizes = objects.sizes()
    _require_store(url, sizes)
    # What is only here is named by its place here.
    with copies.named(url if is_there else "", folder):
      yield folder, {n: sizes[n] for n in sizes if _is_finished(n, sizes)}
    held.require()
    with copies.writing(url):
      mirror.retried(lambda: _upload(objects, folder), f"write {url}")


def _require_store(url: str, names: Collection[str]) -> None:
  """Raises UserError if there is something else than a store."""
  others = [n for n in names if not n.startswith(("units/", "lease"))]
  if others and _HEAD not in names:
    raise errors.UserError(
      f"--out: {url} has other objects, such as {min(others)}, and no store; "
      "choose another --out"
    )


def _follow(objects: Objects, folder: pathlib.Path, *, is_whole: bool) -> bool:
  """Updates the copy of a store; returns whether the bucket has one.

  Where the bucket has a note on a unit, the unit is as in the bucket. Removes
  the copy of a store that was deleted.
  """
  with copies.reading(objects.url):
    names = objects.sizes()
    if _HEAD not in names:
      if copies.was_copied(folder, _HEAD):
        shutil.rmtree(folder)
      return False
    is_wanted = lambda name: (
      not _RECORDS.fullmatch(name) or (is_whole and _is_finished(name, names))
    )
    copies.update_all(objects, folder, is_wanted)
    for name, path in copies.not_copied(folder).items():
      if _RECORDS.fullmatch(name) and _is_finished(name, names):
        path.unlink()
  return True


def _is_finished(name: str, names: Collection[str]) -> bool:
  """Returns whether a file has the records of a unit with a note."""
  match = _RECORDS.fullmatch(name)
  return match is not None and f"units/unit-{match[1]}.json" in names


def _upload(objects: Objects, folder: pathlib.Path) -> None:
  """Uploads what has changed, in an order in which it may be interrupted.

  A note is in the bucket only while its records are, and the index only while
  all are.
  """
  paths = copies.not_copied(folder)
  _require_same_head(objects, folder)
  notes = {n: p for n, p in paths.items() if _NOTE.fullmatch(n)}
  others = {n: p for n, p in paths.items() if n not in notes and n != _INDEX}
  index = folder / _INDEX
  if notes or others or not index.exists():
    objects.delete([_INDEX, *notes])
  objects.upload(others)
  objects.upload(notes)
  if index.exists():
    _remove_unnamed(objects, folder)
    objects.upload({_INDEX: index})
  copies.remember_uploaded(objects, folder, [*paths, _INDEX])


def _require_same_head(objects: Objects, folder: pathlib.Path) -> None:
  """Raises UserError if the bucket has a store with other settings."""
  own = (folder / _HEAD).read_bytes()
  try:
    found = objects.read(_HEAD)
  except FileNotFoundError:
    objects.create(_HEAD, own)
    # Not every store refuses to create an object that exists.
    found = objects.read(_HEAD)
  if found != own:
    raise errors.UserError(
      f"--out: another machine has begun a store with other settings in "
      f"{objects.url}; nothing was uploaded; choose another --out, or remove it"
    )


def _remove_unnamed(objects: Objects, folder: pathlib.Path) -> None:
  """Deletes records that the index does not name, and notes on their units.

  Raises:
    UserError: the bucket lacks a file that the index names.
  """
  index = json_files.loads((folder / _INDEX).read_bytes())
  rows = [
    row
    for part in index.values()
    if isinstance(part, dict)
    for row in part.get("shards", [])
  ]
  named, names = {row["file"] for row in rows}, objects.sizes()
  missing = sorted(named - {*names})
  if missing:
    raise errors.UserError(
      f"--out: {missing[0]} is no longer in {objects.url}; start the same "
      "command again"
    )
  unnamed = [n for n in names if n.endswith(_SUFFIX) and n not in named]
  gone = [n for n in names if _STATE.fullmatch(n) and not (folder / n).exists()]
  objects.delete(unnamed + gone)
