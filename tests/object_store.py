"""Object stores on this machine, and a connection to them that can be cut."""

import contextlib
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

SECRET = "the-secret-of-the-tests"
BUCKET = "bucket-of-tests"
# The emulator queues only 5 connections; Linux tries others again after 1 s.
_EMULATOR = """
import socketserver
from gcp_storage_emulator.__main__ import main
socketserver.TCPServer.request_queue_size = 128
main()
"""
_COMMANDS = {
  "s3": ("moto", ["-m", "moto.server", "-H", "127.0.0.1", "-p"]),
  "gs": (
    "gcp_storage_emulator",
    ["-c", _EMULATOR, "start", "--in-memory", "--port"],
  ),
}
_CLIENTS = {"s3": "s3fs", "gs": "gcsfs"}


class Link:
  """Forwards connections to a store, unless it is cut.

  Attributes:
    port: where it listens.
    on_data: called with what is sent to the store, before it is sent.
  """

  def __init__(self, store_port: int):
    self._store_port = store_port
    self._is_cut = False
    self._open: set[socket.socket] = set()
    self.on_data: Callable[[bytes], None] = lambda data: None
    self._listener = socket.create_server(("127.0.0.1", 0))
    self.port = self._listener.getsockname()[1]
    threading.Thread(target=self._accept, daemon=True).start()

  def cut(self) -> None:
    """Ends all connections, and refuses others until `mend`."""
    self._is_cut = True
    for one in [*self._open]:
      with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)

  def mend(self) -> None:
    self._is_cut = False

  def _accept(self) -> None:
    while True:
      client, _ = self._listener.accept()
      if self._is_cut:
        client.close()
        continue
      threading.Thread(
        target=self._forward, args=(client,), daemon=True
      ).start()

  def _forward(self, client: socket.socket) -> None:
    with (
      client,
      contextlib.suppress(OSError),
      socket.create_connection(("127.0.0.1", self._store_port)) as store,
    ):
      self._open |= {client, store}
      for one in (client, store):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
      while not self._is_cut:
        for ready in select.select([client, store], [], [], 1)[0]:
          data = ready.recv(2**16)
          if not data:
            return
          if ready is client:
            self.on_data(data)
          if self._is_cut:
            return
          (store if ready is client else client).sendall(data)


@contextlib.contextmanager
def running(scheme: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
  """Starts a store with one bucket; the environment names it."""
  package, command = _COMMANDS[scheme]
  pytest.importorskip(package)
  pytest.importorskip(_CLIENTS[scheme])
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  process = subprocess.Popen(
    [sys.executable, *command, str(port)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  link = Link(port)
  address = f"http://127.0.0.1:{link.port}"
  values = {
    "s3": {
      "AWS_ACCESS_KEY_ID": "key",
      "AWS_SECRET_ACCESS_KEY": SECRET,
      "AWS_DEFAULT_REGION": "us-east-1",
      "AWS_ENDPOINT_URL": address,
    },
    "gs": {"STORAGE_EMULATOR_HOST": address},
  }[scheme]
  for name, value in values.items():
    monkeypatch.setenv(name, value)
  try:
    _wait(port)
    _make_bucket(scheme)
    yield link
  finally:
    process.kill()
    process.wait()


def _wait(port: int) -> None:
  for _ in range(600):
    with contextlib.suppress(OSError):
      socket.create_connection(("127.0.0.1", port), timeout=1).close()
      return
    time.sleep(0.1)
  raise TimeoutError("the object store does not listen")


def _make_bucket(scheme: str) -> None:
  import fsspec

  client = fsspec.filesystem(scheme, skip_instance_cache=True)
  if scheme == "s3":
    client.call_s3("create_bucket", Bucket=BUCKET)
  else:
    client.mkdir(BUCKET)


def environment(folder: pathlib.Path) -> dict[str, str]:
  """Returns the environment of a process whose copies are in a folder."""
  return {**os.environ, "PAUSEJAX_STAGING": str(folder)}
