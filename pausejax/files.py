"""Atomic writes, bounded reads, and lines that end only at a line feed."""

import errno
import os
import pathlib
import secrets
import stat
import tempfile

from pausejax import errors

__all__ = [
  "is_name",
  "read_bounded",
  "require_writable",
  "require_writable_file",
  "split_lines",
  "sync_folder",
  "write",
]


MAX_BYTES = 2**28  # Of a file that is read whole, such as a tokenizer.


def write(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file atomically.

  A reader sees the old content or the new, never a part. If two processes
  write the same file concurrently, the last one to finish wins.

  Args:
    path: the file; its folder must exist.
    content: text is written as UTF-8, without converting line feeds.

  Raises:
    OSError: the disk is full, or the folder is not writable. An existing file
      is unchanged.
  """
  data = content.encode("utf-8") if isinstance(content, str) else content
  temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
  try:
    temporary.write_bytes(data)
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def read_bounded(
  path: os.PathLike[str] | str, max_bytes: int = MAX_BYTES
) -> bytes:
  """Returns the content of a regular file.

  Raises:
    OSError: it cannot be read, is a pipe or another special file, or has more
      than `max_bytes`.
  """
  # Without O_NONBLOCK, opening a pipe would wait for its writer.
  with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
    found = os.fstat(file.fileno())
    if stat.S_ISDIR(found.st_mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
      raise OSError(errno.EINVAL, "not a regular file", path)
    if found.st_size > max_bytes:
      size = f"{found.st_size:,} bytes, at most {max_bytes:,} are read"
      raise OSError(errno.EFBIG, size, path)
    return file.read()


def sync_folder(folder: pathlib.Path) -> None:
  """Waits until the names in a folder are on the disk; raises OSError."""
  opened = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(opened)
  finally:
    os.close(opened)


def split_lines(text: str) -> list[str]:
  r"""Returns the lines of a text, without the line feeds that end them.

  `str.splitlines` also splits at U+2028, U+0085 and other characters that JSON
  allows inside a string. Here a line ends only at "\n".
  """
  lines = text.split("\n")
  return lines if lines[-1] else lines[:-1]


def is_name(text: str) -> bool:
  """Returns whether a text from a file names something in its own folder."""
  is_plain = pathlib.PurePath(text).name == text not in ("", "..")
  return is_plain and text.isprintable()  # Without NUL and lone surrogates.


def require_writable(option: str, folder: pathlib.Path) -> None:
  """Raises UserError unless files can be written there; makes no folder."""
  try:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    with tempfile.TemporaryFile(dir=existing):
      pass
  except OSError as e:
    raise errors.UserError(
      f"{option}: cannot write {folder}: {e.strerror or e}; make it writable, "
      "or name another folder"
    ) from e


def require_writable_file(option: str, path: pathlib.Path) -> None:
  """Raises UserError unless a file can be written there; makes nothing."""
  errors.require(
    not path.is_dir(), f"{option}: {path} is a folder; name a file in it"
  )
  require_writable(option, path.parent)
