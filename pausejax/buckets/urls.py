"""URLs of buckets, and where their files are kept on this machine."""

import hashlib
import importlib.util
import os
import pathlib
import re

from pausejax import errors

CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}
_EXTRAS = {"gs": "gcs", "s3": "s3"}
_ENDPOINTS = (
  "AWS_ENDPOINT_URL",
  "AWS_ENDPOINT_URL_S3",
  "STORAGE_EMULATOR_HOST",
)
_BUCKET = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_NAME = r"(?!\.\.?(?:/|$))[A-Za-z0-9._=+,~-]+"
_URL = re.compile(rf"(gs|s3)://{_BUCKET}(/{_NAME})+")


def is_url(path: str) -> bool:
  """Returns whether a path begins with gs:// or s3://."""
  return path.startswith(tuple(f"{scheme}://" for scheme in CLIENTS))


def normal(name: str, url: str) -> str:
  """Returns a URL without slashes at its end.

  Args:
    name: the option that gave it, for messages.
    url: `gs://BUCKET/FOLDER` or `s3://BUCKET/FOLDER`.

  Raises:
    UsageError: it has another form.
  """
  url = url.rstrip("/")
  # The URL is not repeated: one such as s3://KEY:SECRET@BUCKET has a secret.
  errors.require(
    _URL.fullmatch(url) is not None,
    f"{name}: expected {url[:2]}://BUCKET/FOLDER with letters, digits and "
    ". _ = + , ~ - in the names; got another form (credentials belong in the "
    "environment, see docs/buckets.md)",
  )
  return url


def require_client(url: str) -> None:
  """Raises UserError unless the client of a URL's bucket is installed."""
  scheme = url[:2]
  if importlib.util.find_spec(CLIENTS[scheme]) is None:
    extra = _EXTRAS[scheme]
    raise errors.UserError(
      f"{url} needs the extra {extra}: make env EXTRA={extra}, or pip install "
      f"'.[{extra}]' in the clone"
    )


def local_folder(url: str, use: str) -> pathlib.Path:
  """Returns the folder that holds a copy of a URL's files; does not make it.

  Args:
    url: a URL that `normal` returned.
    use: "run" for the folder of a run that trains, "copy" for reading.
  """
  cache = os.environ.get("PAUSEJAX_STAGING") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    "pausejax",
  )
  place = [url, *(os.environ.get(name, "") for name in _ENDPOINTS)]
  digest = hashlib.sha256("\n".join(place).encode()).hexdigest()[:16]
  return pathlib.Path(cache).resolve() / use / digest / url.rpartition("/")[2]
