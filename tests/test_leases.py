"""Leases of runs in buckets, against object stores that run here."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from pausejax import errors
from pausejax.buckets import lease, mirror
from pausejax.buckets.objects import Objects
from tests import test_buckets

pytestmark = pytest.mark.slow  # They start servers.
store, url = test_buckets.store, test_buckets.url
fast_lease = test_buckets.fast_lease


def test_a_second_run_is_refused_and_named(url, fast_lease, capsys):
  objects = Objects(url)
  with lease.hold_lease(objects, lambda: None):
    with (
      pytest.raises(errors.UserError) as raised,
      lease.hold_lease(Objects(url), lambda: None),
    ):
      pass
    assert "another run is using" in raised.value.message
    assert f"process {os.getpid()} on" in raised.value.message
    assert "its lease ends at" in capsys.readouterr().err
  assert objects.sizes() == {}  # It was released, and no probe is left.


def test_a_lease_that_nobody_renews_is_taken_over(url, fast_lease, capsys):
  objects = Objects(url)
  with lease.hold_lease(objects, lambda: None):
    content = json.loads(objects.read(lease.LEASE))
  objects.write(
    lease.LEASE, json.dumps({**content, "host": "h", "machine": "m"}).encode()
  )
  began = time.monotonic()
  with lease.hold_lease(Objects(url), lambda: None) as mine:
    assert time.monotonic() - began > 1
    mine.require()
  error = capsys.readouterr().err
  assert "taking over" in error and "on h, since" in error


def test_the_lease_of_a_killed_process_of_this_machine_is_over(
  url, fast_lease, monkeypatch
):
  program = (
    "import os, signal\n"
    "from pausejax.buckets import lease\n"
    "from pausejax.buckets.objects import Objects\n"
    f"with lease.hold_lease(Objects({url!r}), lambda: None):\n"
    "  os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  subprocess.run([sys.executable, "-c", program], check=False)
  monkeypatch.setattr(lease, "LEASE_SECONDS", 3600.0)
  assert lease.LEASE in Objects(url).sizes()
  with lease.hold_lease(Objects(url), lambda: None):
    pass


def test_a_process_that_follows_a_lease_notices_that_it_was_taken(
  url, fast_lease, monkeypatch
):
  objects = Objects(url)
  with lease.hold_lease(objects, lambda: None) as held:
    followed = lease.FollowedLease(Objects(url), held.key)
    followed.require()
    time.sleep(0.6)
    followed.require()  # Renewed meanwhile.
  objects.delete([lease.LEASE])
  time.sleep(0.6)
  with pytest.raises(errors.UserError, match=r"lost its lease.*by nobody"):
    followed.require()
  with lease.hold_lease(objects, lambda: None) as other:
    with pytest.raises(errors.UserError, match=r"lost its lease.*by process"):
      followed.require()
    assert other.key != held.key


def test_a_run_that_was_suspended_reads_the_lease_before_it_writes(
  url, monkeypatch
):
  objects, clock = Objects(url), lease._clock
  assert abs(clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
  with lease.hold_lease(objects, lambda: None) as mine:
    content = json.loads(objects.read(lease.LEASE))
    other = json.dumps({**content, "host": "h", "key": "other"}).encode()
    objects.write(lease.LEASE, other)
    mine.require()  # It was read a moment ago.
    monkeypatch.setattr(lease, "_clock", lambda: clock() + 3600)
    with pytest.raises(errors.UserError, match=r"lost its lease.*on h, since"):
      mine.require()


def test_of_two_that_take_over_a_dead_lease_one_gives_up(url, monkeypatch):
  objects = Objects(url)
  with lease.hold_lease(objects, lambda: None):
    content = json.loads(objects.read(lease.LEASE))
  dead = {**content, "pid": 2**22 + 1}
  objects.write(lease.LEASE, json.dumps(dead).encode())
  create = Objects.create

  def creating(self, name, given):
    """Another run, which has seen the dead lease, deletes this one."""
    is_created = create(self, name, given)
    if name == lease.LEASE and json.loads(given)["pid"] == os.getpid():
      other = json.dumps({**content, "host": "h", "key": "other"}).encode()
      threading.Timer(0.05, objects.write, (lease.LEASE, other)).start()
    return is_created

  monkeypatch.setattr(Objects, "create", creating)
  with (
    pytest.raises(errors.UserError, match=r"is using .* on h, since"),
    lease.hold_lease(objects, lambda: None),
  ):
    pass


def test_no_object_of_a_step_is_sent_after_the_lease_was_lost(
  url, fast_lease, tmp_path
):
  folder = tmp_path / "checkpoints" / "8" / "params"
  folder.mkdir(parents=True)
  for i in range(3 * mirror._AT_ONCE):
    (folder / f"{i}.0").write_bytes(b"x")
  copied = mirror.Mirror(url, tmp_path)
  with lease.hold_lease(Objects(url), lambda: None) as held:
    copied.follow(held.key)
    sizes = copied.upload_step(8)
  assert len(sizes) == 3 * mirror._AT_ONCE
  before = Objects(url).versions()
  time.sleep(0.6)
  with pytest.raises(errors.UserError, match="lost its lease"):
    copied.upload_step(8)
  assert Objects(url).versions() == before


def test_a_run_whose_lease_was_taken_writes_nothing_more(url, fast_lease):
  objects, copied = Objects(url), []
  with lease.hold_lease(objects, lambda: copied.append(1)) as mine:
    content = json.loads(objects.read(lease.LEASE))
    other = json.dumps({**content, "host": "h", "key": "other"}).encode()
    objects.write(lease.LEASE, other)
    time.sleep(1.5)
    num_copied = len(copied)
    time.sleep(1.5)
    assert len(copied) == num_copied and mine.is_lost
    with pytest.raises(errors.UserError, match=r"lost its lease.*on h, since"):
      mine.require()
  assert objects.read(lease.LEASE) == other  # It does not release that one.
