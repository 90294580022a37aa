"""Which ports a process listens on, and whether one can be bound."""

import ipaddress
import os
import pathlib
import socket

from pausejax.selftest import failure

_LISTENING = "0A"  # Of /proc/net/tcp.


def free_port(host: str) -> int:
  """Returns a port of an address of this machine that nobody listens on.

  Raises:
    UserError: none can be bound there.
  """
  try:
    family = socket.getaddrinfo(host, 0)[0][0]
    with socket.socket(family) as s:
      s.bind((host, 0))
      return s.getsockname()[1]
  except OSError as e:
    raise failure.failed(
      "ports",
      f"no port of {host} can be bound: {e.strerror or e}",
      "several processes could not start a run",
      "check that the address is one of this machine, and its firewall",
    ) from e


def listeners(pid: int) -> list[str] | None:
  """Returns the addresses that a process listens on, as HOST:PORT.

  None where /proc does not say, as on macOS.
  """
  if not pathlib.Path("/proc/net/tcp").exists():
    return None
  sockets = set()
  for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
    try:
      sockets.add(os.readlink(entry))
    except FileNotFoundError:  # Closed meanwhile.
      continue
  found = []
  for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    path = pathlib.Path(table)
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    for words in map(str.split, lines):
      if words[3] == _LISTENING and f"socket:[{words[9]}]" in sockets:
        found.append(_address(words[1]))
  return sorted(found)


def is_loopback(address: str) -> bool:
  """Returns whether only this machine reaches an address of `listeners`."""
  host = address.rpartition(":")[0].strip("[]")
  return ipaddress.ip_address(host).is_loopback


def _address(text: str) -> str:
  """Returns HOST:PORT of an address such as 0100007F:1F90."""
  host, _, port = text.partition(":")
  words = [host[i : i + 8] for i in range(0, len(host), 8)]
  packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
  ip = ipaddress.ip_address(packed)
  if isinstance(ip, ipaddress.IPv6Address):
    ip = ip.ipv4_mapped or ip
  shown = f"[{ip}]" if ip.version == 6 else str(ip)
  return f"{shown}:{int(port, 16)}"
