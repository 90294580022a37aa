"""The coordinator's port, and the processes that have connected to it.

The coordinator's key-value store cannot be used before all have connected (JAX
aborts the process), so process 0 lists the connections of its port. Linux only.
"""

import collections
import contextlib
import errno
import ipaddress
import pathlib
import socket
import struct
from collections.abc import Sequence

from pausejax import errors

_ESTABLISHED = "01"  # <netinet/tcp.h>


def require_free_port(address: str) -> None:
  """Raises UserError if another program listens on a port of this machine.

  JAX's coordinator does not name the port then, and sometimes crashes.

  Args:
    address: HOST:PORT of the coordinator, which is to listen there.
  """
  port = int(address.rpartition(":")[2])
  try:
    with socket.socket() as own:  # It is bound, and never listens.
      own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      own.bind(("", port))
  except OSError as e:
    if e.errno != errno.EADDRINUSE:  # JAX explains any other.
      return
    raise errors.UserError(
      f"JAX_COORDINATOR_ADDRESS {address}: port {port} of this machine is used "
      "by another program, such as an earlier run; end it, or choose another "
      "port in all processes"
    ) from e


def connected(address: str) -> list[str]:
  """Returns the host of each process connected to a port of this machine.

  Args:
    address: HOST:PORT of the coordinator.
  """
  port = int(address.rpartition(":")[2])
  hosts = []
  for name in ("tcp", "tcp6"):
    with contextlib.suppress(OSError):
      lines = pathlib.Path("/proc/net", name).read_text().splitlines()[1:]
      rows = [line.split() for line in lines]
      hosts += [
        _host(remote)
        for _, local, remote, state, *_ in rows
        if state == _ESTABLISHED and int(local.split(":")[1], 16) == port
      ]
  return sorted(hosts)


def counted(hosts: Sequence[str]) -> str:
  """Returns hosts as text, such as "10.0.0.2 (4), 10.0.0.3"."""
  counts = collections.Counter(hosts)
  return ", ".join(h if n == 1 else f"{h} ({n})" for h, n in counts.items())


def _host(text: str) -> str:
  """Returns the IP address in a line of /proc/net/tcp, 0100007F:1F90."""
  digits = text.split(":")[0]
  words = struct.unpack(f">{len(digits) // 8}I", bytes.fromhex(digits))
  ip = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
  return str(getattr(ip, "ipv4_mapped", None) or ip)
