"""A wrong verb, option or argument is one line that says what to write."""

import os
import subprocess
import sys

import jax
import pytest

from pausejax import cli, errors
from tests.command_lines import SMOKE, fails, train

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


def test_a_message_of_several_lines_becomes_one(monkeypatch, capsys):
  def fail(argv):
    raise errors.UserError("a file\nnamed in\r\ntwo lines")

  from pausejax.programs import train as program

  monkeypatch.setattr(program, "main", fail)
  assert cli.main(["train"]) == 1
  assert capsys.readouterr().err == "pausejax: a file named in two lines\n"


def test_a_device_without_memory_is_one_line(monkeypatch, capsys):
  from pausejax.programs import train as program

  # More than an address can name, so it fails on every machine.
  def fail(argv):
    jax.numpy.zeros(2**46).block_until_ready()

  monkeypatch.setattr(program, "main", fail)
  assert cli.main(["train"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("pausejax: out of memory: Out of memory allocating")
  assert "optim.num_microbatches" in line


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
