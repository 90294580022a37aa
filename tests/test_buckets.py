"""Objects, parts, mirrors and copies, against object stores that run here."""

import contextlib
import json
import socket
import threading

import pytest

from pausejax import errors
from pausejax.buckets import (
  copies,
  layout,
  lease,
  mirror,
  parts,
  stores,
  urls,
)
from pausejax.buckets.objects import Objects
from tests import object_store

pytestmark = pytest.mark.slow  # They start servers.


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
  with (
    pytest.MonkeyPatch.context() as patch,
    object_store.running(request.param, patch) as link,
  ):
    link.scheme = request.param
    yield link


@pytest.fixture
def url(store, request, tmp_path, monkeypatch):
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / "staging"))
  name = "".join(c if c.isalnum() else "_" for c in request.node.name)
  return f"{store.scheme}://{object_store.BUCKET}/{name}/run"


@pytest.fixture
def fast_lease(monkeypatch):
  monkeypatch.setattr(lease, "LEASE_SECONDS", 4.0)
  monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.5)
  monkeypatch.setattr(lease, "_WATCH_SECONDS", 0.2)


def contents(url: str) -> dict[str, bytes]:
  objects = Objects(url)
  return {name: objects.read(name) for name in objects.sizes()}


def put_run(url: str, steps=(4,), value=b"1") -> None:
  """Writes objects that have the names of a run with checkpoints."""
  objects = Objects(url)
  objects.write("config.json", b"{}")
  for step in steps:
    for name in ("meta/meta.json", "params/d/x", "opt_state/d/y"):
      objects.write(layout.step_name(step, name), value)
    objects.write(layout.step_name(step, layout.COMMITTED), b"{}")


def test_objects_are_written_read_copied_and_deleted(url, tmp_path):
  objects = Objects(url)
  assert objects.sizes() == {}
  Objects(url + "2").write("other", b"x")  # A sibling with a longer name.
  files = {f"a/{i}": tmp_path / f"{i}" for i in range(20)}
  for i, path in enumerate(files.values()):
    path.write_bytes(b"x" * i)
  objects.upload(files)
  assert objects.sizes() == {f"a/{i}": i for i in range(20)}
  before = objects.versions()
  objects.copy({"a/3": "b/3"})
  objects.delete(["a/3", "a/3", "a/none"])
  assert objects.read("b/3") == b"xxx" and "a/3" not in objects.sizes()
  objects.write("a/4", b"yyyy")
  assert objects.versions()["a/4"] != before["a/4"]
  assert objects.versions()["a/5"] == before["a/5"]
  objects.download({"a/7": tmp_path / "new" / "7"})
  assert (tmp_path / "new" / "7").read_bytes() == b"x" * 7
  with pytest.raises(FileNotFoundError):
    objects.read("a/none")


def test_a_folder_that_a_console_made_is_no_file(url):
  objects = Objects(url)
  for name in ("", "checkpoints/"):
    objects.write(name, b"")  # A name that ends in a slash.
  assert objects.sizes() == {}
  put_run(url)
  folder = copies.local_run(url, "--checkpoint")
  assert (folder / "checkpoints" / "4" / "meta" / "meta.json").exists()


def test_a_url_of_an_object_is_no_run(url):
  put_run(url)
  with pytest.raises(errors.UserError, match=r"no run in .*config\.json"):
    copies.local_run(f"{url}/config.json", "--checkpoint")


def test_a_server_that_never_answers_is_noticed(monkeypatch):
  """Counts connections, each of which waits as long as the client does."""
  monkeypatch.setattr("s3fs.S3FileSystem.read_timeout", 0.2)
  with socket.create_server(("127.0.0.1", 0), backlog=99) as silent:
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.SECRET)
    with pytest.raises(OSError, match="timeout"):
      Objects("s3://bucket-x/run").read("x")
    silent.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
      while True:
        silent.accept()[0].close()
        count += 1
  assert 1 < count <= 6


def test_an_error_has_one_line_and_no_credentials(url, store):
  store.cut()
  try:
    with pytest.raises(OSError) as raised:
      Objects(url).write("x", b"")
  finally:
    store.mend()
  shown = f"{raised.value} {raised.value.__cause__} {raised.value.strerror}"
  assert object_store.SECRET not in shown and "\n" not in shown
  assert url in raised.value.filename


def test_a_missing_bucket_is_named(url):
  missing = url.replace(object_store.BUCKET, "no-such-bucket")
  with pytest.raises(errors.UserError, match="no such object or bucket"):
    copies.local_run(missing, "--checkpoint")


def test_lines_are_copied_in_parts_and_joined(url, tmp_path):
  objects, path = Objects(url), tmp_path / "metrics.jsonl"
  writer = parts.PartWriter(objects, path)
  writer.push()  # There is no file yet.
  lines = [f'{{"step": {i}}}\n'.encode() for i in range(120)]
  for line in lines:
    with path.open("ab") as file:
      file.write(line[:5])
      file.flush()
      writer.push()
      file.write(line[5:])
    writer.push()
  names = objects.sizes()
  assert 1 < len(names) <= 100
  assert parts.join_parts(objects, "metrics.jsonl", names) == b"".join(lines)
  # A later start writes the file anew, with fewer lines.
  path.write_bytes(lines[0])
  parts.PartWriter(objects, path).push()
  assert [*contents(url).values()] == [lines[0]]


def test_a_run_is_read_while_it_deletes_a_step_and_replaces_its_metrics(
  url, tmp_path, monkeypatch
):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b"a\n")
  parts.PartWriter(Objects(url), path).push()
  put_run(url, steps=(4,))
  before = Objects(url).versions()
  path.write_bytes(b"a\nb\n")
  parts.PartWriter(Objects(url), path).push()
  Objects(url).delete(
    [name for name in before if name.startswith(layout.step_name(4))]
  )
  put_run(url, steps=(8,))
  versions = Objects.versions
  answers = iter([before])
  monkeypatch.setattr(
    Objects,
    "versions",
    lambda self, *words: next(answers, None) or versions(self, *words),
  )
  folder = copies.local_run(url, "--checkpoint")
  assert (folder / path.name).read_bytes() == b"a\nb\n"
  assert [p.name for p in (folder / "checkpoints").iterdir()] == ["8"]


def test_an_interrupted_start_leaves_the_lines_of_the_one_before(url):
  objects = Objects(url)
  objects.write("metrics.jsonl/000001.000000000000000", b"a\n")
  objects.write("metrics.jsonl/000001.000000000000002", b"b\n")
  objects.write("metrics.jsonl/000002.000000000000007", b"c\n")
  names = objects.sizes()
  assert parts.join_parts(objects, "metrics.jsonl", names) == b"a\nb\n"


def test_lines_do_not_wait_for_a_large_file(url, tmp_path, monkeypatch):
  """The thread that copies them renews the lease."""
  (tmp_path / "config.json").write_text("{}")
  run, started, may_end = mirror.Mirror(url, tmp_path), *_events(2)
  run.begin()

  def upload(self, paths):
    started.set()
    may_end.wait(30)

  monkeypatch.setattr(Objects, "upload", upload)
  thread = threading.Thread(target=run.push)
  thread.start()
  assert started.wait(30)
  lines = threading.Thread(target=run._push_lines)
  lines.start()
  lines.join(10)
  assert not lines.is_alive() and thread.is_alive()
  may_end.set()
  thread.join()


def _events(count: int) -> list[threading.Event]:
  return [threading.Event() for _ in range(count)]


def test_a_store_that_was_not_uploaded_is_kept(url, monkeypatch):
  def refuse(self, paths):
    raise OSError(5, "the store is away", url)

  with monkeypatch.context() as patch:
    patch.setattr(mirror, "_RETRY_SECONDS", 0.0)
    patch.setattr(Objects, "upload", refuse)
    with (
      pytest.raises(errors.UserError, match="the store is away"),
      stores.building(url) as (folder, _),
    ):
      (folder / "units").mkdir(parents=True)
      (folder / "units" / "store.json").write_text("{}")
      (folder / "index.json").write_text("{}")
  with stores.building(url) as (folder, _):
    assert (folder / "index.json").exists()
  assert Objects(url).read("index.json") == b"{}"
  objects = Objects(url)  # Now it is built anew.
  objects.delete([*objects.sizes()])
  with stores.building(url) as (folder, _):
    assert not folder.exists()
    (folder / "units").mkdir(parents=True)
    (folder / "units" / "store.json").write_text("{}")


def test_a_step_without_its_mark_does_not_exist(url):
  put_run(url, steps=(4, 8))
  Objects(url).delete([layout.step_name(8, layout.COMMITTED)])
  folder = copies.local_run(url, "--checkpoint")
  assert [p.name for p in (folder / "checkpoints").iterdir()] == ["4"]
  with pytest.raises(errors.UserError, match=r"no step 8 in .*; available: 4"):
    copies.local_run(f"{url}/checkpoints/8", "--checkpoint")


def test_a_copy_follows_the_bucket(url):
  put_run(url, steps=(4, 8))
  folder = copies.local_run(f"{url}/checkpoints/4", "--checkpoint").parents[1]
  array = folder / layout.step_name(4, "params/d/x")
  assert not array.exists()
  copies.fetch_arrays(url, 4, ["params"])
  assert array.read_bytes() == b"1"
  assert not (folder / layout.step_name(4, "opt_state/d/y")).exists()
  # Another run of the same name.
  Objects(url).delete(Objects(url).sizes())
  put_run(url, steps=(4,), value=b"2")
  copies.local_run(f"{url}/checkpoints/4", "--checkpoint")
  copies.fetch_arrays(url, 4, ["params"])
  assert array.read_bytes() == b"2"
  assert not (folder / layout.step_name(8)).exists()


def test_a_mirror_commits_sets_aside_and_deletes(url, fast_lease):
  put_run(url, steps=(4, 8, 12))
  objects = Objects(url)
  objects.delete([layout.step_name(12, layout.COMMITTED)])
  folder = urls.local_folder(url, "run")
  (folder / "old").mkdir(parents=True)
  one = mirror.Mirror(url, folder)
  with one.hold():
    assert {p.name for p in folder.iterdir()} == {"config.json", "checkpoints"}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "8"}
    assert layout.step_name(12, "params/d/x") not in objects.sizes()
    one.fetch_step(8)
    assert (folder / layout.step_name(8, "opt_state/d/y")).exists()
    one.begin()
    (folder / "checkpoints" / "8").rename(folder / "checkpoints" / "16")
    (folder / "metrics.jsonl").write_bytes(b"{}\n")
    one.commit(16, one.upload_step(16))
    one.set_aside(4, "4-0", {})
    one.delete_missing()
  names = objects.sizes()
  assert layout.committed_steps(names) == [16]
  assert objects.read("set_aside/4-0/params/d/x") == b"1"
  assert not layout.of_step(names, 8) and not layout.of_step(names, 4)
  assert lease.LEASE not in names
  size = json.loads(objects.read(layout.step_name(16, layout.COMMITTED)))
  assert size == {n: 1 for n in layout.of_step(names, 16)}


def test_a_write_survives_that_the_store_is_away(url, store):
  store.cut()
  timer = threading.Timer(4, store.mend)
  timer.start()
  mirror.retried(lambda: Objects(url).write("x", b"1"), "write an object")
  assert Objects(url).read("x") == b"1"


def test_a_write_that_fails_is_reported_once_and_repeated(monkeypatch, capsys):
  monkeypatch.setattr(mirror, "_PAUSE_SECONDS", 0.01)
  problems = [OSError(5, "away"), OSError(5, "away")]

  def write():
    if problems:
      raise problems.pop()

  mirror.retried(write, "write step 4")
  line = "pausejax: warning: cannot write step 4: away; trying again for 60 s"
  assert capsys.readouterr().err.splitlines() == [line]
  monkeypatch.setattr(mirror, "_RETRY_SECONDS", 0.0)
  problems += [OSError(5, "away")] * 2
  with pytest.raises(OSError, match="away"):
    mirror.retried(write, "write step 4")


@pytest.mark.parametrize(
  "wrong",
  [
    f"s3://key:{object_store.SECRET}@bucket-x/run",
    "s3://bucket-x",
    "s3://bucket-x/",
    "s3:///run",
    "gs://bucket-x/a//b",
    "gs://bucket-x/../b",
    "gs://bucket-x/a?b",
    "gs://bucket-x/a*",
    "s3://Bucket/a",
  ],
)
def test_a_url_of_another_form_is_refused_and_not_repeated(wrong):
  with pytest.raises(
    errors.UsageError, match=r"expected .*://BUCKET"
  ) as raised:
    urls.normal("--workdir", wrong)
  assert object_store.SECRET not in raised.value.message


def test_a_scheme_without_its_client_names_the_extra(monkeypatch):
  monkeypatch.setitem(urls.CLIENTS, "gs", "no_such_package")
  with pytest.raises(errors.UserError, match=r"EXTRA="):
    Objects("gs://bucket-x/run")


def test_folders_of_other_runs_are_not_files_of_this_one():
  of_run = ["config.json", "tokenizer.model", "evaluations/a.json"]
  of_run += ["probes_average/a.json", "tensorboard/events"]
  others = ["b/config.json", "b/checkpoints/8/params/d/x", "checkpoints/8/x"]
  others += ["lock", "lease.json", "metrics.jsonl", "metrics.jsonl/a.0"]
  assert all(map(layout.is_small, of_run))
  assert not any(map(layout.is_small, others))
  assert layout.is_small("evaluations/") and not layout.is_small("checkpoints/")
