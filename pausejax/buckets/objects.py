"""Objects below one URL of a bucket, through fsspec.

A bucket cannot rename, append or lock. It writes an object whole or not at all,
lists what was written at once, and can create an object only if it is new.
Errors of the clients become OSError with one line and without credentials.
"""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from datetime import datetime
from typing import Any

from pausejax import errors
from pausejax.buckets import urls

_AT_ONCE = 16  # Transfers.
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_TOKEN = re.compile(r"(?i)(bearer\s+|token[=:]\s*|signature[=:]\s*)\S+")


class Objects:
  """The objects below a URL; names are relative to it."""

  def __init__(self, url: str):
    """Makes no connection yet.

    Args:
      url: a URL that `urls.normal` returned.

    Raises:
      UserError: the client of its bucket is not installed.
    """
    urls.require_client(url)
    self.url = url

  @functools.cached_property
  def _client(self) -> Any:
    import fsspec

    # These log the errors that are raised here, some with the whole request.
    for name in ("gcsfs", "google.auth", "s3fs", "aiobotocore", "asyncio"):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {}
    if self.url.startswith("s3:"):
      options["config_kwargs"] = {"retries": {"max_attempts": 2}}
    client = fsspec.filesystem(
      self.url[:2],
      use_listings_cache=False,
      skip_instance_cache=True,
      **options,
    )
    if self.url.startswith("s3:"):
      # Attempts of s3fs, each of up to 3 requests of 15 s by botocore. With its
      # 5 of 5 a server that never answers would be noticed after 7 minutes.
      client.retries = 2
    return client

  def sizes(self, folder: str = "") -> dict[str, int]:
    """Returns the sizes of all objects below a folder, in bytes."""
    return {n: x["size"] for n, x in self._listing(folder).items()}

  def versions(self, folder: str = "") -> dict[str, str]:
    """Returns name -> a text that changes when the object is replaced."""
    return {
      n: f"{x['size']} {x.get('ETag') or x.get('etag')}"
      for n, x in self._listing(folder).items()
    }

  def _listing(self, folder: str) -> dict[str, dict[str, Any]]:
    """Returns name -> what the store says about it.

    Without the empty objects that the clouds' consoles make for folders, whose
    names end in a slash, and without one of the name of the URL itself.
    """
    root = self._path("")
    with self._explained(folder):
      found = self._client.find(self._path(folder), detail=True)
    return {
      name.removeprefix(root): info
      for name, info in found.items()
      if name.startswith(root) and not name.endswith("/")
    }

  def read(self, name: str) -> bytes:
    """Returns the content of an object; raises FileNotFoundError."""
    with self._explained(name):
      return self._client.cat_file(self._path(name))

  def write(self, name: str, content: bytes) -> None:
    """Writes an object, in place of one of that name."""
    with self._explained(name):
      self._client.pipe_file(self._path(name), content)

  def create(self, name: str, content: bytes) -> bool:
    """Writes an object if there is none of that name; returns whether."""
    with self._explained(name):
      try:
        self._client.pipe_file(self._path(name), content, mode="create")
      except FileExistsError:
        return False
    return True

  def modified(self, name: str) -> datetime:
    """Returns when an object was written, by the clock of the server."""
    with self._explained(name):
      return self._client.modified(self._path(name))

  def upload(self, paths: Mapping[str, pathlib.Path]) -> None:
    """Uploads files: name of the object -> file."""

    def one(name: str) -> None:
      with self._explained(name):
        self._client.put_file(str(paths[name]), self._path(name))

    _all(one, paths)

  def download(self, paths: Mapping[str, pathlib.Path]) -> None:
    """Downloads objects: name of the object -> file.

    Each file appears when it is complete.
    """

    def one(name: str) -> None:
      path = paths[name]
      path.parent.mkdir(parents=True, exist_ok=True)
      part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
      with self._explained(name):
        self._client.get_file(self._path(name), str(part))
      part.replace(path)

    _all(one, paths)

  def copy(self, names: Mapping[str, str]) -> None:
    """Copies objects inside the bucket: name -> name of the copy."""

    def one(name: str) -> None:
      with self._explained(name):
        self._client.cp_file(self._path(name), self._path(names[name]))

    _all(one, names)

  def delete(self, names: Iterable[str]) -> None:
    """Deletes objects; those that are gone already are no error."""

    def one(name: str) -> None:
      with self._explained(name), contextlib.suppress(FileNotFoundError):
        self._client.rm_file(self._path(name))

    _all(one, names)

  def _path(self, name: str) -> str:
    return f"{self.url[5:]}/{name}"

  @contextlib.contextmanager
  def _explained(self, name: str) -> Iterator[None]:
    """Turns the errors of the client into OSError, with one line."""
    where = f"{self.url}/{name}"
    try:
      yield
    except FileNotFoundError:
      missing = "there is no such object or bucket"
      raise FileNotFoundError(errno.ENOENT, missing, where) from None
    except Exception as e:
      # Without its cause, whose text and arguments may hold credentials.
      raise OSError(_number(e), _reason(e), where) from None


def _all(one: Any, names: Iterable[str]) -> None:
  """Calls a function with every name, several at once."""
  with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    started = [pool.submit(one, name) for name in names]
    try:
      for future in started:
        future.result()
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise


def _number(error: Exception) -> int:
  number = error.errno if isinstance(error, OSError) else None
  return number or errno.EIO


def _reason(error: Exception) -> str:
  """Returns an error in one line, without credentials."""
  text = getattr(error, "strerror", None) or errors.first_line(error)
  text = text or type(error).__name__
  for name in _SECRETS:
    if value := os.environ.get(name):
      text = text.replace(value, f"<{name}>")
  return _TOKEN.sub(r"\1<hidden>", text)[:200]
