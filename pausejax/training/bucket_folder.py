"""The local folder of a run in a bucket: of all processes, or of each one."""

import contextlib
import dataclasses
from collections.abc import Iterator

from pausejax.buckets import copies
from pausejax.buckets.layout import SEGMENTS
from pausejax.buckets.mirror import Mirror, retried
from pausejax.runtime import distributed, run_folder
from pausejax.training.inputs import Inputs


@contextlib.contextmanager
def mirrored(inputs: Inputs) -> Iterator[tuple[Inputs, Mirror | None]]:
  """Yields the inputs and the mirror of a run in a bucket.

  If all processes see the folder of process 0, only this one has a mirror.
  Otherwise each one has a mirror, and the others have a folder of their own.

  Raises:
    UserError: another run is using the URL, or it cannot be read or written.
  """
  if not inputs.url:
    yield inputs, None
    return
  with contextlib.ExitStack() as stack:
    mirror = None
    if distributed.process_index() == 0:
      mirror = Mirror(inputs.url, inputs.workdir)
      stack.enter_context(mirror.hold())
      print(
        f"working in {inputs.workdir}; what is saved is copied to {inputs.url}",
        flush=True,
      )
    is_shared = run_folder.is_shared(inputs.workdir)
    if not is_shared:
      print(
        "the processes share no folder: each copies its part of a step",
        flush=True,
      )
    key = distributed.all_gather(mirror and mirror.lease_key)[0]
    if not is_shared and mirror is None:
      inputs, mirror = stack.enter_context(_own_folder(inputs))
      mirror.follow(key)
    if mirror is not None:
      mirror.is_shared = is_shared
    yield inputs, mirror


@contextlib.contextmanager
def _own_folder(inputs: Inputs) -> Iterator[tuple[Inputs, Mirror]]:
  """Yields the inputs and the mirror of a process with its own folder."""
  name = f"{inputs.workdir.name}-process_{distributed.process_index()}"
  inputs = dataclasses.replace(inputs, workdir=inputs.workdir.with_name(name))
  with (
    copies.named(inputs.url, inputs.workdir),
    run_folder.hold_workdir(inputs.workdir, is_shared=False),
  ):
    mirror = Mirror(inputs.url, inputs.workdir)
    with copies.reading(inputs.url):
      mirror.pull()
    yield inputs, mirror


def share_segments(mirror: Mirror | None) -> None:
  """Waits for segments that process 0 prepared; copies them if need be.

  Args:
    mirror: of this process, from `mirrored`.

  Raises:
    UserError: the bucket cannot be read or written.
  """
  own = mirror if mirror is not None and not mirror.is_shared else None
  if own is not None and distributed.process_index() == 0:
    with copies.writing(own.url):
      retried(own.push, f"write the data of {own.url}")
  distributed.all_gather("prepared")
  if own is not None:
    with copies.reading(own.url):
      own.fetch(SEGMENTS)
