import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from pausejax import cli, errors
from pausejax.config import (
  PARAMETER_AXES,
  default,
  loader,
  train_config,
)

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SMOKE = str(CONFIGS / "smoke.py")
# What the top of each config file says that its argument can be.
ARGS = {
  "smoke": ["", "pause=true", "pause=false"],
  "continue_pretrain": ["", "pause=true", "pause=false"],
  "finetune": ["", "task=gsm8k", "task=squad,pauses=50", "pauses=0"],
  "finetune_smoke": ["", "task=stdlib_choice", "pauses=0"],
  "match3": ["", "arm=none", "arm=pauses", "arm=mixed,size=small"],
  "parity": ["", "arm=none", "arm=hints", "arm=pauses", "arm=both,bits=100"],
  "pretrain_c4": [
    "",
    "pause=false",
    "size=1b,optimizer=adamw",
    "optimizer=muon,pause=false",
    *(
      f"size={size},pause={pause}"
      for size, pause in itertools.product(
        ("130m", "1b", "tiny"), ("true", "false")
      )
    ),
  ],
}

STUDIES = ("study", "study_curriculum", "study_laptop", "study_smoke")

WRONG_VERBS = [
  (["tran"], "did you mean 'train'?"),
  (["Train"], "did you mean 'train'?"),
  (["segment"], "did you mean 'segments'?"),
  (["generte", "--prompt=x"], "did you mean 'generate'?"),
  ([""], "known: checkpoint, "),
  (["--config=x", "train"], "unknown verb"),
  (["-v"], "unknown verb '-v'"),
  (["tokenizer", "trian", "--config=x"], "did you mean 'train'?"),
  (["checkpoint"], "known: diff, ls, repair, verify"),
  (["checkpoint", "verfy", "run"], "did you mean 'verify'?"),
  (["checkpoint", "ls"], "required: RUN"),
]

WRONG_OPTIONS = [
  (["train"], "--config, --workdir"),
  (["train", "--workdir=w"], "required: --config"),
  (["train", f"--config={SMOKE}"], "required: --workdir"),
  (["train", f"--config={SMOKE}", "--workdir"], "--workdir: expected one"),
  (["train", f"--config={SMOKE}", "--workdr=w"], "mean '--workdir'?"),
  (["train", f"--config={SMOKE}", "workdir=w"], "did you mean --workdir=w?"),
  (["train", "config=x.py", "--workdir=w"], "did you mean --config=x.py?"),
  (["train", "-config=x.py", "--workdir=w"], "did you mean --config=x.py?"),
  (["report", "workdir=w"], "did you mean --workdir=w?"),
  (["generate", "--checkpoint", "r", "prompt=x"], "did you mean --prompt=x?"),
  (["train", "--workdir=w", "--conifg=x.py"], "did you mean '--config'?"),
  (["segments", f"--config={SMOKE}"], "required: --out"),
  (["tokenizer", f"--config={SMOKE}"], "required: --out"),
  (
    ["tokenizer", "train", f"--config={SMOKE}", "--out=o", "--vocab_size=2k"],
    "invalid int value: '2k'",
  ),
  (
    ["tokenizer", "train", f"--config={SMOKE}", "--out=o", "--vocab_size=9"],
    "--vocab_size: must be a finite number at least 260, got 9",
  ),
  (["generate", "--checkpoint=run"], "required: --prompt"),
  (["generate", "--checkpoint=r", "--prompt=p", "--pauses=-1"], "--pauses"),
  (
    ["generate", "--checkpoint=r", "--prompt=p", "--temperature=nan"],
    "--temperature: must be a finite number",
  ),
  (
    ["generate", "--checkpoint=r", "--prompt=p", "--max_new_token=3"],
    "did you mean '--max_new_tokens'?",
  ),
  (
    ["generate", "--checkpoint=r", "--prompt=p", "--config.seed=3"],
    "unexpected argument '--config.seed=3'",
  ),
]

# Behind `train --config=configs/smoke.py --workdir=...`.
WRONG_ARGUMENTS = [
  ("--steps=5", "unexpected argument '--steps=5'"),
  ("--work_dir=x", "did you mean '--workdir'?"),
  ("-workdir=x", "did you mean --workdir=x?"),
  ("workdir=x", "did you mean --workdir=x?"),
  ("extra", "unexpected argument 'extra'"),
  ("--verbose", "unexpected argument '--verbose'"),
  ("--conifg.num_steps=5", "did you mean --config.num_steps=5?"),
  # An override without its dashes, with one, or without a value.
  ("config.num_steps=5", "did you mean --config.num_steps=5?"),
  ("-config.num_steps=5", "did you mean --config.num_steps=5?"),
  ("--config.num_steps", "--config.num_steps=VALUE"),
  ("--config.data", "--config.data=VALUE"),
  ("--config.", "--config.=VALUE"),
  ("num_steps=5", "did you mean --config.num_steps=5?"),
  ("--num_steps=5", "did you mean --config.num_steps=5?"),
  ("--learning_rate=1", "did you mean --config.optim.learning_rate=1?"),
  # Fields that are not there, at every depth.
  ("--config.num_step=5", "did you mean 'num_steps'?"),
  ("--config.batchsize=5", "did you mean 'batch_size'?"),
  ("--config.Seed=5", "did you mean 'seed'?"),
  ("--config.=5", "unknown field ''"),
  ("--config..=5", "unknown field '.'"),
  ("--config.dat.seq_len=8", "did you mean 'data.seq_len'?"),
  ("--config.data.seqlen=8", "did you mean 'data.seq_len'?"),
  ("--config.data.pause=0.1", "did you mean 'data.pause_mode'?"),
  ("--config.data.=8", "unknown field 'data.'"),
  ("--config.model.d_modl=8", "did you mean 'model.d_model'?"),
  ("--config.optim.lr=1e-3", "mean 'optim.learning_rate'? (known: clip_norm"),
  ("--config.learning_rate=1e-3", "did you mean 'optim.learning_rate'?"),
  ("--config.learning_rat=1e-3", "did you mean 'optim.learning_rate'?"),
  ("--config.model.learning_rate=1", "did you mean 'optim.learning_rate'?"),
  ("--config.model.seed=1", "did you mean 'seed'?"),
  ("--config.every=5", "'checkpoint.every' or 'eval.every' or 'log.every'?"),
  ("--config.steps=5", "did you mean 'num_steps'"),
  ("--config.layers=5", "did you mean 'model.num_layers'?"),
  ("--config.modle.x=5", "did you mean 'model'?"),
  ("--config.optim.kwargs.a.b=1", "unknown field 'optim.kwargs.a.b'"),
  ("--config.num_steps.x=5", "config.num_steps is a value"),
  ("--config.data.task.name=c4", "config.data.task is a value"),
  ("--config.__class__=5", "unknown field '__class__'"),
  # Groups where a value belongs.
  ("--config.model=130m", "set one of model.attention"),
  ("--config.optim.kwargs=0.9", "set one of optim.kwargs.b1"),
  ("--config.optim.kwargs={", "set one of optim.kwargs.b1"),
  # Values of another type.
  ("--config.num_steps=many", "config.num_steps: expected int, got 'many'"),
  ("--config.num_steps=1e3", "expected int, got '1e3'"),
  ("--config.num_steps=5.0", "expected int, got '5.0'"),
  ("--config.num_steps=", "expected int, got ''"),
  ("--config.seed=None", "expected int, got 'None'"),
  ("--config.optim.learning_rate=fast", "expected float, got 'fast'"),
  ("--config.optim.learning_rate=1e-3,", "expected float, got '1e-3,'"),
  ("--config.log.tensorboard=yes", "expected true or false, got 'yes'"),
  ("--config.model.bias=2", "expected true or false, got '2'"),
  ("--config.optim.kwargs.b1=high", "b1: expected float, got 'high'"),
  ("--config.optim.kwargs.b1=", "b1: expected float, got ''"),
  ("--config.optim.kwargs.b1={[]:1}", "b1: expected float"),
  ("--config.optim.decay_axes=haeds", "did you mean 'heads'?"),
  ("--config.optim.decay_axes=heads,mpl", "did you mean 'mlp'?"),
  # Values that cannot be.
  ("--config.num_steps=-5", "num_steps: must be a finite number from 1"),
  ("--config.num_steps=0", "num_steps: must be a finite number from 1"),
  ("--config.num_steps=" + "9" * 400, "num_steps: must be a finite number"),
  ("--config.stop_at_step=-1", "stop_at_step: must be"),
  ("--config.seed=" + "9" * 30, "seed: must be"),
  ("--config.batch_size=0", "batch_size: must be"),
  ("--config.batch_size=-16", "batch_size: must be"),
  ("--config.data.seq_len=1", "data.seq_len: must be"),
  ("--config.data.seq_len=100", "data.seq_len 100 is not divisible by loss"),
  ("--config.data.pause_fraction=1", "from 0.0 to 0.9, got 1.0"),
  ("--config.data.pause_fraction=-0.1", "data.pause_fraction: must be"),
  ("--config.data.pause_fraction=10%", "expected float, got '10%'"),
  ("--config.data.holdout_every=1", "data.holdout_every: must be"),
  ("--config.data.prefetch=0", "data.prefetch: must be"),
  ("--config.data.shuffle_buffer=0", "data.shuffle_buffer: must be"),
  ("--config.optim.learning_rate=nan", "optim.learning_rate: must be a finite"),
  ("--config.optim.learning_rate=inf", "optim.learning_rate: must be a finite"),
  ("--config.optim.learning_rate=-1", "at least 0.0, got -1.0"),
  ("--config.optim.clip_norm=nan", "optim.clip_norm: must be"),
  ("--config.optim.clip_norm=inf", "optim.clip_norm: must be"),
  ("--config.optim.final_fraction=1.5", "from 0.0 to 1.0, got 1.5"),
  ("--config.optim.warmup_steps=-1", "optim.warmup_steps: must be"),
  ("--config.optim.kwargs.b1=nan", "optim.kwargs.b1: must be a finite"),
  ("--config.optim.kwargs.eps=inf", "optim.kwargs.eps: must be a finite"),
  ('--config.optim.kwargs={"b1": NaN}', "optim.kwargs.b1: must be a finite"),
  ("--config.optim.kwargs.weight_decay=-0.1", "weight_decay: must be"),
  ("--config.optim.num_microbatches=3", "batch_size 16 is not divisible by"),
  ("--config.loss.num_chunks=7", "data.seq_len 256 is not divisible by loss"),
  ("--config.loss.z_loss=-1", "loss.z_loss: must be"),
  ("--config.model.num_heads=5", "model.d_model 128 is not divisible by"),
  ("--config.model.num_heads=0", "model.num_heads: must be"),
  ("--config.model.num_kv_heads=3", "model.num_heads 4 is not divisible by"),
  ("--config.model.num_kv_heads=8", "model.num_heads 4 is not divisible by"),
  ("--config.model.max_seq_len=128", "longer than model.max_seq_len 128"),
  ("--config.model.rope_theta=0", "model.rope_theta: must be"),
  ("--config.mesh.data=0", "mesh.data: must be at least 1, or -1"),
  ("--config.mesh.fsdp=-2", "mesh.fsdp: must be at least 1, or -1"),
  ("--config.mesh.tensor=-1", "only one of data, fsdp, sequence, tensor may"),
  ("--config.checkpoint.every=0", "checkpoint.every: must be"),
  ("--config.checkpoint.keep=0", "checkpoint.keep: must be"),
  ("--config.eval.every=-1", "eval.every: must be"),
  ("--config.eval.num_batches=-1", "eval.num_batches: must be"),
  ("--config.log.every=0", "log.every: must be"),
  # Words that are not among the choices.
  ("--config.data.task=c5", "did you mean 'c4'?"),
  ("--config.data.task=", "`pausejax tasks list` shows all"),
  ("--config.data.task=text", "--config.data.files="),
  ("--config.data.pipeline=segment", "did you mean 'segments'?"),
  ("--config.data.pause_mode=trim", "did you mean 'insert_trim'?"),
  ("--config.optim.schedule=cos", "did you mean 'cosine'?"),
  ("--config.model.position=Rope", "did you mean 'rope'?"),
  ("--config.model.norm=rms", "did you mean 'rmsnorm'?"),
  ("--config.model.mlp=swish", "did you mean 'swiglu'?"),
  ("--config.model.dtype=float16", "did you mean 'bfloat16'?"),
  ("--config.model.remat=all", "known: full, names, none"),
]

# Behind `train --workdir=...`; {} is an empty folder.
WRONG_CONFIGS = [
  ("configs/smok.py", "no file 'configs/smok.py'"),
  (f"{CONFIGS}/smok.py", "smoke.py'?"),
  (f"{CONFIGS}/smoke", "smoke.py'?"),
  (f"{CONFIGS}", "no file"),
  ("", "no file ''"),
  ("{}/none/x.py", "no file"),
  ("{}/run/config.json", "no file"),
  (f"{CONFIGS}/pretrain_c4.py:size=2b", "did you mean '1b'?"),
  (f"{CONFIGS}/pretrain_c4.py:siz=1b", "did you mean 'size'?"),
  (f"{CONFIGS}/pretrain_c4.py:size", "known: 130m, 1b, tiny"),
  (f"{CONFIGS}/pretrain_c4.py:size=1b;pause=true", "unknown value"),
  (f"{SMOKE}:pause=0", "known: false, true"),
  (f"{SMOKE}:standard", "known: pause"),
  ("study_smoke:pause=true", "known: none"),
]


def fails(argv, capsys) -> str:
  """Runs a command line that must be refused; returns its one line."""
  assert cli.main(argv) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert len(err.splitlines()) == 1, err
  assert err.startswith("pausejax: ") and err.endswith("\n")
  return err


def train(workdir, *arguments, config=SMOKE):
  return ["train", f"--config={config}", f"--workdir={workdir}", *arguments]


@pytest.mark.parametrize(("argv", "fragment"), WRONG_VERBS + WRONG_OPTIONS)
def test_a_wrong_verb_or_option_is_one_line(argv, fragment, capsys):
  assert fragment in fails(argv, capsys)


@pytest.mark.parametrize("verb", [*cli.VERBS, ""])
@pytest.mark.parametrize("bad", ["caf\udce9", "a\0b", "\ud800"])
def test_an_argument_that_is_no_text_is_one_line(verb, bad, capsys):
  for word in (bad, f"--prompt={bad}", f"--config={bad}", f"--out={bad}"):
    message = fails([verb, word] if verb else [word], capsys)
    assert repr(bad)[1:-1] in message


def test_text_that_the_terminal_cannot_show_is_escaped():
  done = subprocess.run(
    [sys.executable, "-m", "pausejax", "tasks", "list", "--local_dir=\u2603"],
    capture_output=True,
    env={**os.environ, "PYTHONIOENCODING": "ascii"},
    check=False,
  )
  assert done.returncode == 2
  assert b"\\u2603" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(("argument", "fragment"), WRONG_ARGUMENTS)
def test_a_wrong_argument_is_one_line(argument, fragment, tmp_path, capsys):
  workdir = tmp_path / "run"
  assert fragment in fails(train(workdir, argument), capsys)
  assert not workdir.exists()


@pytest.mark.parametrize(("config", "fragment"), WRONG_CONFIGS)
def test_a_wrong_config_is_one_line(config, fragment, tmp_path, capsys):
  config = config.replace("{}", str(tmp_path))
  assert fragment in fails(train(tmp_path / "run", config=config), capsys)


@pytest.mark.parametrize(
  ("arguments", "fragment"),
  [
    (["d_model=132", "position=rope"], "rotating dimensions, got 33"),
    (["num_heads=8", "num_kv_heads=3"], "model.num_kv_heads 3"),
    (["d_model=130"], "model.d_model 130 is not divisible by"),
  ],
)
def test_shapes_that_do_not_fit_are_one_line(
  arguments, fragment, tmp_path, capsys
):
  overrides = [f"--config.model.{a}" for a in arguments]
  assert fragment in fails(train(tmp_path / "run", *overrides), capsys)


def test_pauses_that_leave_no_text_are_one_line(tmp_path, capsys):
  message = fails(
    train(
      tmp_path / "run",
      "--config.data.seq_len=4",
      "--config.loss.num_chunks=1",
      "--config.data.pause_fraction=0.9",
      "--config.data.pause_mode=exact",
    ),
    capsys,
  )
  assert "no position for text" in message


def test_a_message_names_the_field_that_is_wrong_among_equal_values(
  tmp_path, capsys
):
  equal = ["--config.batch_size=256", "--config.data.seq_len=256"]
  message = fails(
    train(tmp_path / "run", *equal, "--config.loss.num_chunks=7"), capsys
  )
  assert "data.seq_len 256 is not divisible by loss.num_chunks 7" in message


GOOD = "from pausejax import config\ndef get_config(arg=''):\n  "


@pytest.mark.parametrize(
  ("source", "fragment"),
  [
    ("def get_config(:\n", "SyntaxError"),
    ("", "get_config"),
    ("import no_such_module\n", "no_such_module"),
    ("from configs import base\n", "pausejax.config.default()"),
    ("def get_config():\n  pass\n", "TypeError"),
    ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two"),
    ("raise RuntimeError\n", "RuntimeError"),
    ("def get_config(arg):\n  return None\n", "returned a NoneType"),
    ("def get_config(arg):\n  return {'seed': 0}\n", "returned a dict"),
    (
      f"{GOOD}c = config.default(); c.num_step = 5; return c\n",
      "no field 'num_step' there; did you mean config.num_steps?",
    ),
    (
      f"{GOOD}c = config.default(); c.data.door = 'seqio'; return c\n",
      "no field 'door' there; it is now config.data.pipeline",
    ),
    (f"{GOOD}c = config.default(); c.data.seq = 5; return c\n", "seq"),
    (
      f"{GOOD}c = config.default(); c.num_steps = 'x'; return c\n",
      "num_steps",
    ),
    (
      f"{GOOD}c = config.default(); c.num_steps = -5; return c\n",
      "num_steps: must",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): c.data.sed = 5\n"
      "  return c\n",
      "unknown field 'data.sed'",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): del c.seed\n"
      "  return c\n",
      "the field 'seed' is missing",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): del c.data\n"
      "  return c\n",
      "the field 'data' is missing",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked():\n"
      "    c.model.vocab_size = 5\n  return c\n",
      "unknown field 'model.vocab_size'",
    ),
    (
      f"{GOOD}c = config.default(); c.data.files = None; return c\n",
      "data.files: expected str, got None",
    ),
    (
      f"{GOOD}c = config.default(); c.mesh = None; return c\n",
      "mesh: expected a group of fields, got None",
    ),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config(arg):\n  return ConfigDict()\n",
      "is missing",
    ),
  ],
)
def test_a_config_file_that_fails_is_one_line(
  source, fragment, tmp_path, capsys
):
  path = tmp_path / "mine.py"
  path.write_text(source)
  message = fails(train(tmp_path / "run", config=path), capsys)
  assert fragment in message


def test_a_config_file_of_another_kind_is_one_line(tmp_path, capsys):
  for name in ("config.yaml", "config", "config.txt"):
    (tmp_path / name).write_text("num_steps: 5\n")
    message = fails(train(tmp_path / "run", config=tmp_path / name), capsys)
    assert "neither a .py nor a .json" in message


@pytest.mark.parametrize(
  "text",
  [
    "",
    "{",
    "[]",
    "3",
    "null",
    '"text"',
    "{}",
    '{"num_steps": 5}',
    '{"name": "package", "version": "1.0"}',
    "[" * 100_000,
    "\udcff",
  ],
)
def test_json_that_is_no_saved_config_is_one_line(text, tmp_path, capsys):
  path = tmp_path / "config.json"
  path.write_bytes(text.encode("utf-8", "surrogateescape"))
  message = fails(train(tmp_path / "run", config=path), capsys)
  assert f"{path} is not a saved config" in message


@pytest.mark.parametrize(
  ("path", "value", "fragment"),
  [
    ("num_steps", "5", "num_steps: expected int, got '5'"),
    ("num_steps", 5.5, "num_steps: expected int, got 5.5"),
    ("num_steps", True, "num_steps: expected int, got True"),
    ("num_steps", None, "num_steps: expected int, got None"),
    ("num_stepz", 5, "did you mean 'num_steps'?"),
    ("data", None, "data: expected a group of fields, got None"),
    ("data", 5, "data: expected a group of fields, got 5"),
    ("data.seq_lem", 5, "did you mean 'seq_len'?"),
    ("data.files", ["a"], "data.files: expected str"),
    ("model.bias", 1, "model.bias: expected bool, got 1"),
    ("optim.learning_rate", "fast", "optim.learning_rate: expected float"),
    ("optim.learning_rate", math.nan, "optim.learning_rate: must be a finite"),
    ("optim.decay_axes", "heads", "optim.decay_axes: expected tuple"),
    ("optim.decay_axes", ["heads", 3], "optim.decay_axes"),
    ("optim.kwargs", None, "optim.kwargs: expected a group of fields"),
    ("optim.kwargs", {"b.1": 3}, "is not a saved config"),
  ],
)
def test_a_saved_config_with_a_wrong_value_is_one_line(
  path, value, fragment, tmp_path, capsys
):
  tree = saved_tree(SMOKE)
  node = tree
  *parents, last = path.split(".")
  for key in parents:
    node = node[key]
  node[last] = value
  file = tmp_path / "config.json"
  file.write_text(json.dumps(tree))
  assert fragment in fails(train(tmp_path / "run", config=file), capsys)


def saved_tree(spec, *overrides):
  """What a run writes to config.json, as Python reads it."""
  return json.loads(json.dumps(load(spec, *overrides).to_dict()))


def load(spec, *overrides) -> ConfigDict:
  config = loader.load_config(str(spec))
  for override in overrides:
    loader.apply_override(config, f"--config.{override}")
  return config


def test_a_wrong_command_line_imports_nothing_heavy(tmp_path):
  chosen = [*WRONG_ARGUMENTS[::10], ("--config.data.task=text", "")]
  lines = [train(tmp_path / "run", argument) for argument, _ in chosen]
  code = f"""if True:
    import sys
    from pausejax import cli
    for argv in {lines!r}:
      assert cli.main(argv) == 2, argv
    heavy = ("jax", "flax", "optax", "orbax", "grain", "tensorflow", "seqio")
    print([name for name in heavy if name in sys.modules])
  """
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"
  assert len(done.stderr.splitlines()) == len(lines)


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_verb(argv, capsys):
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  assert err == ""
  assert all(f"  {verb} " in out for verb in cli.VERBS)


def test_the_version_is_printed(capsys):
  import pausejax

  assert cli.main(["--version"]) == 0
  assert capsys.readouterr().out == f"{pausejax.__version__}\n"


def leaves(tree, prefix=""):
  """Dotted name -> value of every field; the free kwargs are one field."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, dict) and key != "kwargs":
      found |= leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


@pytest.mark.parametrize(
  "verb", [["train"], ["preflight"], ["train", "--workdir=w"]]
)
def test_help_names_every_field_with_default_and_meaning(verb, capsys):
  with pytest.raises(SystemExit) as done:
    cli.main([*verb, "--help"])
  assert done.value.code == 0
  lines = capsys.readouterr().out.splitlines()
  for name, value in leaves(default().to_dict()).items():
    line = lines.index(f"  {name} = {value!r}")
    meaning = lines[line + 1]
    assert meaning.startswith(" " * 6) and len(meaning.strip()) > 5, name


def help_lines(argv, capsys) -> list[str]:
  with pytest.raises(SystemExit) as done:
    cli.main([*argv, "--help"])
  assert done.value.code == 0
  return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
  "verb",
  [
    ["train"],
    ["segments"],
    ["tokenizer", "train"],
    ["preflight"],
    ["inspect"],
  ],
)
def test_help_shows_the_values_of_the_config_and_its_changes(verb, capsys):
  argv = [*verb, f"--config={SMOKE}:pause=false", "--config.data.task=text"]
  lines = help_lines(argv, capsys)
  assert "  pause = true" in lines and "      one of true, false" in lines
  assert "  data.task = 'text'  ('c4')" in lines
  if verb in (["train"], ["preflight"]):
    assert "  num_steps = 200  (100000)" in lines
    assert "  seed = 0" in lines
  if verb != ["tokenizer", "train"]:
    assert "  data.pause_fraction = 0.0  (0.1)" in lines


@pytest.mark.parametrize("name", [*ARGS, *STUDIES])
def test_help_lists_every_argument_that_a_config_takes(name, capsys):
  verb = "study" if name.startswith("study") else "train"
  lines = help_lines([verb, f"--config={CONFIGS / name}.py"], capsys)
  docstring = (CONFIGS / f"{name}.py").read_text().partition("`arg` is ")[2]
  keys = re.findall(r"(\w+)=", re.split(r'\."|\.\n', docstring)[0])
  assert len(keys) == (name != "study_smoke") * len({*keys})
  for key in keys:
    assert any(line.startswith(f"  {key} = ") for line in lines), key
  assert keys or any("takes no arguments" in line for line in lines)


def test_help_lists_the_arguments_of_a_config_of_your_own(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text(
    "from pausejax import config\n"
    "def get_config(arg=''):\n"
    "  config.parse_arg(arg, size=('s', 'xl'), depth=3)\n"
    "  return config.default()\n"
  )
  lines = help_lines(["train", f"--config={path}"], capsys)
  assert f"  --config={path}:size=s,depth=3" in lines
  assert "      one of s, xl" in lines


def test_help_of_a_config_that_is_not_there_is_one_line(capsys):
  assert "no file" in fails(["train", "--config=non.py", "--help"], capsys)


def test_help_of_the_tokenizer_lists_only_what_decides_its_text(capsys):
  text = "\n".join(help_lines(["tokenizer", "train"], capsys))
  assert "data.files" in text and "tasks_module" in text
  assert "num_steps" not in text and "optim" not in text


def test_a_repeated_option_is_reported_and_the_last_counts(tmp_path, capsys):
  argv = train("first", "--workdir", str(tmp_path / "run"), "--workdir=")
  twice = ["--config.num_steps=5", "--config.num_steps=0"]
  assert cli.main([*argv, *twice, "--config.seed=1", "--config.seed=1"]) == 2
  *said, last = capsys.readouterr().err.splitlines()
  assert [line.partition(" is given twice")[0] for line in said] == [
    "pausejax: --workdir",
    "pausejax: --workdir",
    "pausejax: --config.num_steps",
  ]
  assert "num_steps: must be" in last and "got 0" in last


def test_a_change_without_its_equals_sign_says_how_to_write_it(
  tmp_path, capsys
):
  for words in (["--config.num_steps", "10"], ["--config.data.task", "text"]):
    message = fails(train(tmp_path / "run", *words), capsys)
    assert f"write {words[0]}={words[1]}" in message


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    (f"{SMOKE}:pause=true,pause=false", "pause: given twice"),
    (f"{CONFIGS}/finetune.py:task=", "task: got no value"),
    (f"{CONFIGS}/finetune.py:pauses=ten", "pauses: expected a whole number"),
    ("smok", "did you mean 'smoke'?"),
    ("smoke.py:pause=true", "did you mean 'smoke'?"),
    ("config/smoke.py", "did you mean 'smoke'?"),
  ],
)
def test_a_wrong_config_spec_names_the_nearest_right_one(
  spec, words, tmp_path, capsys
):
  assert words in fails(train(tmp_path / "run", config=spec), capsys)


def test_a_saved_config_takes_no_argument_and_its_path_may_hold_a_colon(
  tmp_path,
):
  (tmp_path / "10:30").mkdir()
  path = tmp_path / "10:30" / "config.json"
  path.write_text(json.dumps(saved_tree(SMOKE)))
  assert load(path).num_steps == 200
  with pytest.raises(errors.UsageError, match="takes no 'pause=true'"):
    load(f"{path}:pause=true")


def test_a_tuple_on_the_command_line_keeps_the_type_of_its_elements():
  config = load(CONFIGS / "study.py", "seeds=3,4", "tasks=squad")
  assert (config.seeds, config.tasks) == ((3, 4), ("squad",))
  with pytest.raises(errors.UsageError, match="seeds: expected"):
    load(CONFIGS / "study.py", "seeds=one")


def test_every_config_file_has_its_arguments_listed_here():
  found = {p.stem for p in CONFIGS.glob("*.py")} - {"__init__"}
  assert found == {*ARGS, *STUDIES}  # See test_study.py.


@pytest.mark.parametrize(
  ("name", "arg"), [(name, arg) for name in ARGS for arg in ARGS[name]]
)
def test_every_config_builds_settings(name, arg):
  config = load(f"{CONFIGS / name}.py:{arg}")
  assert config.is_locked
  built = train_config(config.to_dict())
  assert built.model_config(vocab_size=259).num_vocab_rows == 384
  if "pause=false" in arg:
    assert built.data.pause_fraction == 0.0
  elif name in ("pretrain_c4", "continue_pretrain", "smoke"):
    assert built.data.pause_fraction == 0.1


def test_a_standard_run_differs_from_its_pause_run_in_the_pauses_only():
  for name in ("smoke", "pretrain_c4", "continue_pretrain"):
    path = CONFIGS / f"{name}.py"
    paused = leaves(load(f"{path}:pause=true").to_dict())
    standard = leaves(load(f"{path}:pause=false").to_dict())
    different = [k for k in paused if paused[k] != standard[k]]
    assert different == ["data.pause_fraction"]


@pytest.mark.parametrize(
  ("override", "path", "value"),
  [
    ("num_steps=7", "num_steps", 7),
    ("num_steps=+1_000", "num_steps", 1000),
    ("seed=-3", "seed", -3),
    ("optim.learning_rate=1e-2", "optim.learning_rate", 0.01),
    ("optim.learning_rate=1", "optim.learning_rate", 1.0),
    ("data.task=text", "data.task", "text"),
    ("data.files=a=b,c:d", "data.files", "a=b,c:d"),
    ("data.files=", "data.files", ""),
    ("data.files=3", "data.files", "3"),
    ("log.tensorboard=true", "log.tensorboard", True),
    ("log.tensorboard=True", "log.tensorboard", True),
    ("log.tensorboard=1", "log.tensorboard", True),
    ("model.bias=false", "model.bias", False),
    ("model.bias=0", "model.bias", False),
    ("optim.decay_axes=heads,mlp", "optim.decay_axes", ("heads", "mlp")),
    ("optim.decay_axes=heads", "optim.decay_axes", ("heads",)),
    ("optim.decay_axes=('heads', 'mlp')", "optim.decay_axes", ("heads", "mlp")),
    ("optim.decay_axes=", "optim.decay_axes", ()),
    ("optim.kwargs.b1=0.5", "optim.kwargs.b1", 0.5),
    ("optim.kwargs.b1=0", "optim.kwargs.b1", 0.0),
    ("optim.kwargs.eps=1e-6", "optim.kwargs.eps", 1e-6),
    ("optim.kwargs.nesterov=true", "optim.kwargs.nesterov", True),
    ("optim.kwargs.nesterov=False", "optim.kwargs.nesterov", False),
    ("optim.kwargs.mu_dtype=bfloat16", "optim.kwargs.mu_dtype", "bfloat16"),
    ("optim.kwargs.mu_dtype='bfloat16'", "optim.kwargs.mu_dtype", "bfloat16"),
    ("optim.kwargs.mu_dtype=None", "optim.kwargs.mu_dtype", None),
    ("optim.kwargs.mu_dtype=null", "optim.kwargs.mu_dtype", None),
  ],
)
def test_an_override_takes_effect(override, path, value):
  value_now = load(SMOKE, override)
  for key in path.split("."):
    value_now = value_now[key]
  assert value_now == value
  assert type(value_now) is type(value)
  # And nothing else changes.
  before = leaves(load(SMOKE).to_dict())
  changed = leaves(load(SMOKE, override).to_dict())
  field = "optim.kwargs" if "kwargs" in path else path
  follow = {k for k in before if path == "model.bias" and k.endswith("_bias")}
  if path == "optim.learning_rate":
    follow = {"optim.pause_only_learning_rate"}
  assert {k for k in before if before[k] != changed[k]} <= {field, *follow}


def test_the_last_override_of_a_field_counts():
  assert load(SMOKE, "num_steps=3", "num_steps=5").num_steps == 5


@pytest.mark.parametrize("text", ["{}", '{"momentum": 0.9, "nesterov": true}'])
def test_kwargs_can_be_replaced_whole(text):
  config = load(SMOKE, "optim.name=sgd", f"optim.kwargs={text}")
  assert train_config(config.to_dict()).optim.kwargs == json.loads(text)


def test_fields_follow_the_one_they_refer_to():
  config = load(SMOKE, "model.d_model=64", "model.num_heads=2")
  assert (config.model.d_ff, config.model.num_kv_heads) == (256, 2)
  assert load(SMOKE, "data.seq_len=512").model.max_seq_len == 512


def test_a_field_that_follows_can_be_set_alone():
  config = load(
    SMOKE, "model.num_kv_heads=2", "model.d_ff=96", "model.max_seq_len=1024"
  )
  assert (config.model.num_heads, config.model.d_model) == (4, 128)
  assert (config.model.num_kv_heads, config.model.d_ff) == (2, 96)
  assert (config.model.max_seq_len, config.data.seq_len) == (1024, 256)
  built = train_config(config.to_dict())
  assert built.model_config(vocab_size=1).num_kv_heads == 2


@pytest.mark.parametrize(
  "overrides",
  [
    (),
    ("num_steps=7", "optim.learning_rate=1", "optim.decay_axes=mlp"),
    ("model.num_kv_heads=2", "model.d_ff=96", "model.max_seq_len=1024"),
    ("data.files=Ünï/*.txt", "optim.decay_axes="),
    ("optim.kwargs.eps=1e-7", "optim.kwargs.nesterov=true"),
    ("optim.name=sgd", 'optim.kwargs={"momentum": 0.9}'),
    ("optim.name=sgd", "optim.kwargs={}"),
    ("optim.kwargs.mu_dtype=bfloat16", "optim.kwargs.weight_decay=None"),
    ("seed=-9223372036854775808",),
  ],
)
def test_a_saved_config_loads_back_equal(overrides, tmp_path):
  config = load(SMOKE, *overrides)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  again = load(path)
  assert again.is_locked
  assert again.to_dict() == config.to_dict()
  assert train_config(again.to_dict()) == train_config(config.to_dict())
  # And saved once more it is the same file.
  assert json.dumps(again.to_dict(), indent=2) + "\n" == path.read_text()


def test_a_saved_config_takes_overrides(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(saved_tree(SMOKE)))
  config = load(path, "num_steps=9", "optim.kwargs.eps=1e-9", "data.task=text")
  assert (config.num_steps, config.optim.kwargs.eps) == (9, 1e-9)
  with pytest.raises(errors.UsageError, match="did you mean 'num_steps'"):
    loader.apply_override(config, "--config.num_step=9")


def test_the_axes_of_weight_decay_are_those_of_the_parameters():
  from pausejax import sharding

  not_of_parameters = {"batch", "sequence", "layers"}
  assert set(PARAMETER_AXES) == set(sharding.LOGICAL_RULES) - not_of_parameters


def test_a_message_of_several_lines_becomes_one(monkeypatch, capsys):
  def fail(argv):
    raise errors.UserError("a file\nnamed in\r\ntwo lines")

  from pausejax.programs import train as program

  monkeypatch.setattr(program, "main", fail)
  assert cli.main(["train"]) == 1
  assert capsys.readouterr().err == "pausejax: a file named in two lines\n"


def test_a_closed_output_pipe_shows_no_traceback():
  code = "import sys; from pausejax import cli; sys.exit(cli.main(['--help']))"
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, "-u", "-c", code],
    stdout=writer,
    stderr=subprocess.PIPE,
    check=False,
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, b"")


def test_lists_are_parsed_when_the_command_line_is():
  from pausejax.programs import evaluate, segments

  parse = lambda *words: evaluate.parser().parse(["--checkpoint=r", *words])[0]
  options = parse("--task=squad, gsm8k,squad", "--pauses=0, 10,00,2")
  assert options.task == ("squad", "gsm8k") and options.pauses == (0, 10, 2)
  assert parse("--pause_fraction=0,0.1,0.10").pause_fraction == (0.0, 0.1)
  options = parse("--pauses=")
  assert options.pauses == options.task == options.pause_fraction == ()
  words = ["--config=smoke", "--out=x", "--shard=2/8"]
  assert segments.parser().parse(words)[0].shard == (2, 8)
  for words, text in (
    ("--pauses=1,-2", "argument --pauses: expected whole numbers such as 0,10"),
    ("--pauses=" + "9" * 5000, "--pauses: expected whole numbers"),
    ("--pauses=1.5", "got '1.5'"),
    ("--pause_fraction=0,", "argument --pause_fraction: expected numbers such"),
  ):
    with pytest.raises(errors.UsageError, match=text):
      parse(words)
