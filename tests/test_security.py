"""The rules of docs/security.md: what the code may not call, where it writes.

Rules that belong to one area are tested there: pickled weights
(test_import.py), words of launchers (test_launch.py, test_launch_clouds.py),
text in the report (test_report_page.py), damaged input (test_fuzz.py).
"""

import ast
import hashlib
import json
import os
import pathlib
import re
import stat
import subprocess
import sys

import pytest

from pausejax import cli, errors
from pausejax.checkpoints import retention
from pausejax.config import default, train_config
from pausejax.data import tokenizers
from pausejax.runtime import compilation, wandb_run
from tests import processes, toys

ROOT = pathlib.Path(__file__).parent.parent
CODE = [
  path
  for folder in ("pausejax", "launch", "configs", "benchmarks", "docs")
  for path in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "setup.py"]
SCRIPTS = [*(ROOT / "launch").glob("*.s*"), *(ROOT / ".ci").iterdir()]

# Modules that execute what they read, and calls that do.
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {
  *("eval", "exec", "compile", "__import__", "input", "os.system", "os.popen"),
  *("os.execl", "os.execvp", "os.spawnlp", "subprocess.getoutput"),
  *("subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
  *("torch.load", "torch.hub.load", "pandas.read_pickle", "yaml.load"),
  *("yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "tempfile.mktemp"),
  *("ssl._create_unverified_context", "pty.spawn", "code.interact"),
}
# Keyword -> the only value that it may have.
KEYWORDS = {
  "shell": False,
  "allow_pickle": False,
  "trust_remote_code": False,
  "weights_only": True,
}


def violations(source: str) -> list[str]:
  """Returns what a Python file calls or imports against the rules."""
  tree = ast.parse(source)
  full: dict[str, str] = {}  # Name in the file -> what it stands for.
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      module = getattr(node, "module", None)
      for alias in node.names:
        name = f"{module}.{alias.name}" if module else alias.name
        full[alias.asname or alias.name.split(".")[0]] = (
          name if alias.asname or module else name.split(".")[0]
        )
        found += [name] if name.split(".")[0] in MODULES else []
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      first, dot, rest = ast.unparse(node.func).partition(".")
      name = f"{full.get(first, first)}{dot}{rest}"
      found += [name] if name in CALLS else []
      found += [
        f"{k.arg}={ast.unparse(k.value)}"
        for k in node.keywords
        if k.arg in KEYWORDS
        and not (
          isinstance(k.value, ast.Constant) and k.value.value is KEYWORDS[k.arg]
        )
      ]
  return found


def test_no_code_executes_what_it_reads_or_starts_a_shell():
  found = {str(p): violations(p.read_text("utf-8")) for p in CODE}
  assert len(CODE) > 250
  assert {p: names for p, names in found.items() if names} == {}


@pytest.mark.parametrize(
  "source",
  [
    "import pickle",
    "from cloudpickle import loads",
    "def f():\n  import dill.source as d",
    "import torch as t\nt.load(path)",
    "from torch import load as l\nl(path)",
    "from os import system\nsystem('x')",
    "import numpy as np\nnp.load(p, allow_pickle=True)",
    "np.load(p, allow_pickle=flag)",
    "import subprocess\nsubprocess.run('x', shell=1)",
    "import yaml\nyaml.load(f)",
    "eval('1')",
    "(lambda: exec(text))()",
    "AutoModel.from_pretrained(x, trust_remote_code=True)",
  ],
)
def test_a_violation_is_found(source):
  assert len(violations(source)) == 1


def test_what_only_resembles_a_violation_is_allowed():
  source = "model.eval()\nnp.load(p, allow_pickle=False)\nyaml.safe_load(f)\n"
  source += "subprocess.run(['a'], shell=False)\nspec.loader.exec_module(m)"
  assert violations(source) == []


def test_shell_scripts_do_not_evaluate_text():
  assert len(SCRIPTS) >= 4
  for path in SCRIPTS:
    assert not re.search(r"(^|[;&|]\s*)eval\s", path.read_text(), re.M), path


def test_every_locked_file_has_its_hash():
  locks = sorted((ROOT / "requirements").glob("*.txt"))
  assert len(locks) >= 14
  for path in locks:
    entries = re.split(r"\n(?=[\w])", path.read_text())
    pins = [e for e in entries if not e.startswith("#")]
    assert len(pins) > 10, path
    for entry in pins:
      assert re.match(r"[\w.\[\]-]+==\S+", entry), entry
      assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


# Files and their modes.


def test_other_users_can_write_nothing_whatever_the_umask(tmp_path):
  before = os.umask(0)
  try:
    argv = ["train", "--config=smoke", f"--workdir={tmp_path / 'a' / 'run'}"]
    argv += [f"--config.{x}" for x in ("num_steps=1", "model.num_layers=1")]
    argv += [f"--config.model.{x}" for x in ("d_model=16", "num_heads=2")]
    argv += ["--config.data.seq_len=32", "--config.batch_size=8"]
    assert cli.main([*argv, "--config.eval.num_batches=1"]) == 0
  finally:
    os.umask(before)
  paths = [*(tmp_path / "a").rglob("*"), tmp_path / "a"]
  assert any(p.name == "meta.json" for p in paths)
  for path in paths:
    assert not path.stat().st_mode & stat.S_IWOTH, path


def test_a_cache_that_every_user_can_write_is_refused(tmp_path):
  folder = tmp_path / "cache"
  with compilation.use_cache(str(folder), tmp_path) as used:
    assert used.startswith(str(folder)) or "JAX_COMPILATION_CACHE_DIR" in (
      os.environ
    )
  compilation._require_own("")
  pathlib.Path(folder).mkdir(exist_ok=True)
  compilation._require_own(str(folder))
  folder.chmod(0o777)
  with pytest.raises(errors.UserError, match="every user of"):
    compilation._require_own(str(folder))


def test_a_name_in_a_file_does_not_lead_out_of_the_workdir(tmp_path):
  path = tmp_path / wandb_run.STATE
  for name in ("../x", "/etc", "a/../../b", "offline-/../../x", ".."):
    path.write_text(json.dumps({"id": "a", "sent": 0, "open": name}))
    with pytest.raises(errors.UserError, match="is not a folder name"):
      wandb_run._read_state(tmp_path)


def test_deletions_do_not_follow_links(tmp_path):
  foreign = tmp_path / "foreign"
  foreign.mkdir()
  (foreign / "notes").touch()
  for name, is_inside in (("linked", False), ("inside", True)):
    folder = tmp_path / name / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "4.orbax-checkpoint-tmp").symlink_to(foreign)
    trash = folder / retention.TRASH
    if is_inside:
      trash.mkdir()
    (trash / "8" if is_inside else trash).symlink_to(foreign)
    retention.empty_trash(folder)
    assert not (is_inside and trash.exists())
  assert [p.name for p in foreign.iterdir()] == ["notes"]


# The tokenizer's file.


def test_another_tokenizer_file_is_refused_before_it_is_read(tmp_path):
  path = tmp_path / "x.model"
  path.write_bytes(b"not a tokenizer")
  with pytest.raises(errors.UserError, match="it was not read"):
    tokenizers.load_tokenizer(str(path), "0" * 64)
  own = hashlib.sha256(path.read_bytes()).hexdigest()
  with pytest.raises(errors.UserError, match="not a SentencePiece model"):
    tokenizers.load_tokenizer(str(path), own.upper())
  with pytest.raises(errors.UsageError, match="'bytes' has no file"):
    tokenizers.load_tokenizer("bytes", own)


@pytest.mark.parametrize("verb", ["train", "segments", "inspect", "preflight"])
def test_every_verb_compares_the_pinned_digest(verb, tmp_path, capsys):
  path = tmp_path / "x.model"
  path.write_bytes(b"x")
  argv = [verb, "--config=smoke", f"--config.data.tokenizer={path}"]
  argv += [f"--config.data.tokenizer_sha256={'0' * 64}"]
  out = {"train": "workdir", "segments": "out"}.get(verb)
  argv += [f"--{out}={tmp_path / 'out'}"] if out else []
  argv += ["--topology=v5e-8"] if verb == "preflight" else []
  assert cli.main(argv) == 1
  err = capsys.readouterr().err
  assert "it was not read" in err and len(err.splitlines()) == 1
  assert not (tmp_path / "out").exists()


# Secrets.

SECRETS = {
  "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID0001",
  "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
  "AWS_SESSION_TOKEN": "planted-session",
  "GOOGLE_APPLICATION_CREDENTIALS": "/planted/credentials.json",
  "WANDB_API_KEY": "planted-wandb-key",
  "HF_TOKEN": "hf_planted",
  "HTTPS_PROXY": "http://user:planted-proxy@127.0.0.1:9",
  "MY_PASSWORD": "planted-password",
}


@pytest.mark.parametrize(
  "field", ["init_from", "data.tfds_data_dir", "data.files"]
)
def test_credentials_in_a_config_are_refused_and_not_repeated(field):
  values = default().to_dict()
  *groups, name = field.split(".")
  node = values
  for group in groups:
    node = node[group]
  node[name] = "https://user:planted@host/x"
  with pytest.raises(errors.UsageError, match=f"{field}: ") as caught:
    train_config(values)
  assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
  "url", ["https://u:planted@h/x", "https://h/x?a=1&sig=planted#planted"]
)
def test_a_message_repeats_no_secret_of_a_url(url):
  error = errors.UsageError(f"data.files: {url!r} is no file; see docs?")
  assert "planted" not in str(error)
  assert "h/x" in str(error) and str(error).endswith("is no file; see docs?")


@pytest.mark.slow
def test_secrets_of_the_environment_are_in_no_file_and_no_line(tmp_path):
  """A pretraining, its answers, an export; the names of pauses stay."""
  workdir = tmp_path / "run"
  toys.write_corpus(tmp_path / "corpus")
  train = toys.command(tmp_path / "corpus", workdir, "--config.num_steps=2")
  train += ["--config.model.mlp=swiglu"]  # That transformers has, too.
  pausejax = [sys.executable, "-m", "pausejax"]
  answer = [f"--checkpoint={workdir}"]
  commands = [
    [*train, "--config.profile.hlo=true"],
    [*pausejax, "generate", *answer, "--prompt=a", "--max_new_tokens=2"],
    [*pausejax, "export", *answer, f"--out={tmp_path / 'out'}"],
    [*pausejax, "checkpoint", "ls", str(workdir)],
    [*train, "--config.data.files=https://user:planted-url@host/x"],
  ]
  printed = []
  for command in commands:
    process = toys.start(command, **SECRETS)
    printed.append(process.communicate()[0])
    assert process.returncode == (2 if command is commands[-1] else 0), printed
  contents = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert len(contents) > 20
  for secret in [*SECRETS.values(), "planted"]:
    for text in printed:
      assert secret not in text
    for path, content in contents.items():
      assert secret.encode() not in content, path
  config = json.loads((workdir / "config.json").read_text())
  assert config["data"]["pause_fraction"] == 0.1
  assert isinstance(config["finetune"]["num_pauses"], int)


# Ports.


def listening(pid: int) -> set[str]:
  """Returns the addresses on which a process listens, such as 127.0.0.1."""
  inodes = set()
  for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
    try:
      inodes |= {*re.findall(r"^socket:\[(\d+)\]$", os.readlink(fd))}
    except FileNotFoundError:
      continue
  addresses = set()
  for table in ("tcp", "tcp6"):
    lines = pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
    for fields in (line.split() for line in lines[1:]):
      if fields[3] == "0A" and fields[9] in inodes:
        addresses.add(_address(fields[1].split(":")[0]))
  return addresses


def _address(text: str) -> str:
  """Returns an address of /proc/net/tcp, whose words are little-endian."""
  words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
  raw = b"".join(words)
  if len(raw) == 4 or raw.startswith(bytes(10) + b"\xff\xff"):
    return ".".join(map(str, raw[-4:]))
  return raw.hex()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("count", "host", "expected"),
  [
    (1, "127.0.0.1", set()),
    (2, "127.0.0.2", {"127.0.0.1", "127.0.0.2"}),  # Of Gloo and JAX.
  ],
)
def test_a_run_listens_on_the_address_of_its_coordinator_alone(
  count, host, expected, tmp_path
):
  toys.write_corpus(tmp_path / "corpus")
  command = toys.command(
    tmp_path / "corpus", tmp_path / "run", "--config.num_steps=100000"
  )
  address = {"JAX_COORDINATOR_ADDRESS": f"{host}:{processes.free_port()}"}
  changes = address if count > 1 else {}
  started = processes.start(
    [command] * count, tmp_path / "logs", devices=1, **changes
  )
  seen: set[str] = set()
  try:
    while not toys.rows(tmp_path / "run"):
      assert all(p.poll() is None for p in started), processes.logs(
        tmp_path / "logs", count
      )
      for process in started:
        seen |= listening(process.pid)
    for process in started:
      seen |= listening(process.pid)
  finally:
    for process in started:
      process.kill()
      process.wait()
  assert seen == expected


def test_an_address_of_proc_is_read():
  with subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
      "t = socket.create_server(('0.0.0.0', 0)); print(1, flush=True);"
      "sys.stdin.read()",
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as process:
    assert process.stdout
    process.stdout.readline()
    assert listening(process.pid) == {"127.0.0.1", "0.0.0.0"}
    process.kill()
