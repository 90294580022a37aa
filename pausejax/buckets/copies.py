"""Copies of runs in a bucket on this machine, for reading.

The files are kept below the folder of `urls.local_folder`, and are downloaded
again only if they have changed. The arrays of a step are downloaded when they
are needed.
"""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping

from pausejax import errors, files, json_files
from pausejax.buckets import layout, parts, urls
from pausejax.buckets.objects import Objects

_VERSIONS = ".versions.json"
_AT_A_TIME = 256  # Objects after which their versions are written.


def run_url(spec: str) -> str:
  """Returns the URL of the run of `URL` or `URL/checkpoints/STEP`."""
  return _split(spec)[0] if urls.is_url(spec) else ""


def local_run(spec: str, name: str, *, required: bool = True) -> pathlib.Path:
  """Returns the local path of a run or a checkpoint, without its arrays.

  Args:
    spec: a local path, or `URL` or `URL/checkpoints/STEP`; of a URL, the files
      are downloaded.
    name: the option that gave it, for messages.
    required: whether the run must exist; otherwise the small files of all its
      steps are downloaded, since the newest may be damaged.

  Raises:
    UserError: a step is not there, or the bucket cannot be read.
  """
  if not urls.is_url(spec):
    return pathlib.Path(spec).resolve()
  url, step = _split(urls.normal(name, spec))
  folder = urls.local_folder(url, "copy")
  with reading(url):
    try:
      _copy(Objects(url), folder, step, name, required)
    except FileNotFoundError:
      # A run that trains deletes old steps and replaces parts of its metrics.
      _copy(Objects(url), folder, step, name, required)
  return folder if step is None else folder / layout.step_name(step)


def _copy(
  objects: Objects,
  folder: pathlib.Path,
  step: int | None,
  name: str,
  required: bool,
) -> None:
  """Downloads what `local_run` says, as the bucket is now."""
  versions = objects.versions()
  steps = layout.committed_steps(versions)
  errors.require(
    not required or any(map(layout.is_small, versions)) or bool(steps),
    f"{name}: no run in {objects.url}",
  )
  if step is not None and step not in steps:
    known = ", ".join(map(str, steps)) or "none"
    raise errors.UserError(
      f"{name}: no step {step} in {objects.url}; available: {known}"
    )
  if step is not None:
    steps = [step]
  elif required:
    steps = steps[-1:]
  _update(objects, folder, versions, steps)


def fetch_arrays(url: str, step: int, items: Iterable[str]) -> None:
  """Downloads items of a step, such as "params", after `local_run`."""
  folder = urls.local_folder(url, "copy")
  with reading(url):
    objects = Objects(url)
    versions = objects.versions(layout.step_name(step).rstrip("/"))
    starts = tuple(layout.step_name(step, f"{item}/") for item in items)
    wanted = [name for name in versions if name.startswith(starts)]
    _download(objects, folder, versions, wanted)


def upload(url: str, workdir: pathlib.Path, folder: pathlib.Path) -> None:
  """Uploads the files in a folder of the copy of a run."""
  paths = [
    path
    for path in folder.iterdir()
    if path.is_file() and not layout.is_own(path.name)
  ]
  with writing(url):
    Objects(url).upload(
      {path.relative_to(workdir).as_posix(): path for path in paths}
    )


def update_all(
  objects: Objects,
  folder: pathlib.Path,
  is_wanted: Callable[[str], bool] = lambda name: True,
) -> None:
  """Makes a folder a copy of all objects.

  Args:
    objects: where from.
    folder: the folder.
    is_wanted: whether to download an object of this name; others that were
      copied are only removed if they are gone.

  Raises:
    OSError: the bucket cannot be read.
  """
  versions = objects.versions()
  for name in _copied(folder):
    if name not in versions:
      (folder / name).unlink(missing_ok=True)
  wanted = [n for n in versions if is_wanted(n) and not layout.is_own(n)]
  _download(objects, folder, versions, wanted)


def not_copied(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns name -> path of the files that are not as in the bucket."""
  copied = _copied(folder)
  paths = {
    path.relative_to(folder).as_posix(): path
    for path in folder.rglob("*")
    if path.is_file() and not layout.is_own(path.name)
  }
  return {name: path for name, path in paths.items() if name not in copied}


def remember_uploaded(
  objects: Objects, folder: pathlib.Path, names: Iterable[str]
) -> None:
  """Writes that files of a folder are now in the bucket; raises OSError."""
  versions = objects.versions()
  uploaded = {name: versions[name] for name in names if name in versions}
  _remember(folder, _copied(folder) | uploaded)


def was_copied(folder: pathlib.Path, name: str) -> bool:
  """Returns whether a file of a folder is, or was, in the bucket."""
  return name in _copied(folder)


@contextlib.contextmanager
def named(url: str, folder: pathlib.Path) -> Iterator[None]:
  """Makes errors name the URL of a run instead of its copy.

  Args:
    url: the URL; "" for a run that is on this machine.
    folder: the local folder.
  """
  try:
    yield
  except errors.UserError as e:
    if url:
      e.message = e.message.replace(str(folder), url)
    raise


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
  """Turns an OSError inside into a UserError that explains what to do."""
  try:
    yield
  except OSError as e:
    raise errors.UserError(
      f"cannot read {e.filename or url}: {e.strerror or e}; check the bucket, "
      "the credentials and the endpoint (docs/buckets.md)"
    ) from e


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
  """Turns an OSError inside into a UserError that explains what to do."""
  try:
    yield
  except OSError as e:
    raise errors.UserError(
      f"cannot write {e.filename or url}: {e.strerror or e}; check the bucket, "
      "the credentials and the endpoint, and start the same command again"
    ) from e


def _split(spec: str) -> tuple[str, int | None]:
  """Returns (URL of the run, step or None)."""
  match = re.fullmatch(rf"(.+)/{layout.CHECKPOINTS}/([0-9]+)/*", spec)
  return (match[1], int(match[2])) if match else (spec.rstrip("/"), None)


def _update(
  objects: Objects,
  folder: pathlib.Path,
  versions: Mapping[str, str],
  steps: list[int],
) -> None:
  """Makes the small files of a copy equal to those in the bucket."""
  _remove_gone(folder, versions)
  wanted = [name for name in versions if layout.is_small(name)]
  for step in steps:
    names = layout.of_step(versions, step)
    wanted += [name for name in names if not layout.is_array(name)]
  _download(objects, folder, versions, wanted)
  for file in layout.PARTED:
    content = parts.join_parts(objects, file, versions)
    if content:
      files.write(folder / file, content)
    else:
      (folder / file).unlink(missing_ok=True)


def _remove_gone(folder: pathlib.Path, versions: Mapping[str, str]) -> None:
  """Removes what was copied and is no longer in the bucket."""
  for name in _copied(folder):
    if name not in versions:
      (folder / name).unlink(missing_ok=True)
  known = {str(step) for step in layout.committed_steps(versions)}
  for path in (folder / layout.CHECKPOINTS).glob("[0-9]*"):
    if path.name not in known:
      shutil.rmtree(path, ignore_errors=True)


def _download(
  objects: Objects,
  folder: pathlib.Path,
  versions: Mapping[str, str],
  wanted: list[str],
) -> None:
  """Downloads what differs from the copy."""
  copied = _copied(folder)
  changed = [name for name in wanted if copied.get(name) != versions[name]]
  folder.mkdir(parents=True, exist_ok=True)
  # What is there after an interruption is not downloaded again.
  for start in range(0, max(len(changed), 1), _AT_A_TIME):
    some = changed[start : start + _AT_A_TIME]
    objects.download({name: folder / name for name in some})
    copied |= {name: versions[name] for name in some}
    _remember(folder, copied)


def _remember(folder: pathlib.Path, copied: Mapping[str, str]) -> None:
  """Writes which versions of the objects a folder has."""
  stamps = {name: _stamp(folder / name) for name in copied}
  rows = {n: [copied[n], *stamp] for n, stamp in stamps.items() if stamp}
  files.write(folder / _VERSIONS, json.dumps(rows))


def _copied(folder: pathlib.Path) -> dict[str, str]:
  """Returns name -> version of what was copied and has not changed since."""
  try:
    rows = json_files.loads((folder / _VERSIONS).read_bytes())
    return {
      name: version
      for name, (version, *stamp) in rows.items()
      if stamp == _stamp(folder / name)
    }
  except (OSError, ValueError, TypeError, AttributeError):
    return {}


def _stamp(path: pathlib.Path) -> list[int] | None:
  """Returns size and time of the last change of a file, None if missing."""
  try:
    found = path.stat()
  except FileNotFoundError:
    return None
  return [found.st_size, found.st_mtime_ns]
