"""A real SLURM on this machine: Debian's daemons, nodes that are folders.

  python -m tests.mini_slurm FOLDER      # runs until Ctrl-C

It needs `apt-get install slurm-wlm munge` and no root, systemd, cgroups or
files outside FOLDER. Each node is a slurmd with an address of its own in
127.0.0.0/8, which is also its name, so that JAX finds its coordinator.
"""

import contextlib
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

PROGRAMS = ("munged", "slurmctld", "slurmd")
SBIN = f"{os.environ['PATH']}:/usr/sbin"

_CONF = """\
ClusterName=mini
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
ReturnToService=2
"""
_PARTITIONS = """\
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2
"""


def is_installed() -> bool:
  """Returns whether all daemons are here."""
  return all(shutil.which(name, path=SBIN) for name in PROGRAMS)


@contextlib.contextmanager
def cluster(folder: pathlib.Path, num_nodes: int = 2) -> Iterator[dict]:
  """Runs a cluster and yields the environment in which sbatch finds it.

  Args:
    folder: must have a short path (sockets) and is left as it is at the end.
    num_nodes: two processors each, whatever the machine has.

  Raises:
    RuntimeError: the nodes are not idle after 30 s; the message has the logs.
  """
  nodes = [f"127.0.0.{n + 1}" for n in range(num_nodes)]
  _write(folder, nodes)
  env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": SBIN}
  munge = ["--key-file", "munge.key", "--socket", "munge.socket"]
  munge += ["--seed-file", "munge.seed", "--pid-file", "munge.pid"]
  munge = [m if m.startswith("-") else str(folder / m) for m in munge]
  with contextlib.ExitStack() as stack:
    for command in (
      ["munged", "--foreground", "--force", *munge],
      ["slurmctld", "-D", "-i"],
      *(["slurmd", "-D", "-N", node] for node in nodes),
    ):
      stack.enter_context(_running(command, env, folder))
    _wait_for_idle(num_nodes, env, folder)
    stack.callback(_cancel_all, env)
    yield env


def _write(folder: pathlib.Path, nodes: list[str]) -> None:
  for node in nodes:
    (folder / "spool" / node).mkdir(parents=True)
  (folder / "state").mkdir()
  (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
  (folder / "munge.key").chmod(0o600)
  host, user = socket.gethostname(), pwd.getpwuid(os.getuid()).pw_name
  ports = _free_ports(len(nodes) + 1)
  conf = _CONF.format(
    host=host.split(".")[0],
    user=user,
    folder=folder,
    port=ports.pop(),
    # JAX takes its port from it: no two clusters start with the same.
    first_job=ports[0],
  )
  for node in nodes:
    conf += (
      f"NodeName={node} NodeHostname={host} NodeAddr={node} "
      f"Port={ports.pop()} CPUs=2 State=UNKNOWN\n"
    )
  (folder / "slurm.conf").write_text(conf + _PARTITIONS)
  # SLURM 22.05 cannot do without a plugin for cgroups; it is not used.
  (folder / "cgroup.conf").write_text(
    "CgroupPlugin=autodetect\nIgnoreSystemd=yes\nConstrainCores=no\n"
  )


def _free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(("", 0))
    return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _running(command, env, folder: pathlib.Path) -> Iterator[None]:
  """Runs a daemon as a child of ours."""
  path = shutil.which(command[0], path=SBIN)
  assert path is not None
  with (folder / f"{command[0]}.out").open("a") as log:
    process = subprocess.Popen(
      [path, *command[1:]], env=env, stdout=log, stderr=log
    )
  try:
    yield
  finally:
    process.terminate()
    try:
      process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      process.kill()


def _wait_for_idle(num_nodes: int, env, folder: pathlib.Path) -> None:
  sinfo = ["sinfo", "--noheader", "--states=idle", "--partition=low"]
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    if _output([*sinfo, "--format=%D"], env) == str(num_nodes):
      return
    time.sleep(0.1)
  logs = [p.read_text()[-1000:] for p in folder.glob("*.log")]
  raise RuntimeError("\n".join(["the nodes do not come up:", *logs]))


def _cancel_all(env) -> None:
  """Ends all jobs, so that no process outlives the daemons."""
  subprocess.run(["scancel", "--state=PENDING", "--me"], env=env, check=False)
  subprocess.run(["scancel", "--me"], env=env, check=False)
  deadline = time.monotonic() + 20
  while _output(["squeue", "--noheader"], env) and time.monotonic() < deadline:
    time.sleep(0.1)


def _output(command: list[str], env) -> str:
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  return done.stdout.strip()


def main() -> None:
  """Runs a cluster until Ctrl-C or SIGTERM."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
  folder = pathlib.Path(sys.argv[1]).resolve()
  folder.mkdir(parents=True)
  with cluster(folder), contextlib.suppress(KeyboardInterrupt):
    print(f"export SLURM_CONF={folder}/slurm.conf   # Ctrl-C here ends it")
    while True:
      time.sleep(3600)


if __name__ == "__main__":
  main()
