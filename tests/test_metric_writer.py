import json
import math
import random
import struct

import pytest

from pausejax.runtime import metric_rows, metric_writer


def write(workdir, steps, resumed_from=0, **metrics):
  writer = metric_writer.MetricWriter(workdir, resumed_from)
  for step in steps:
    writer.write(step, metrics or {"loss": 1 / step})
  writer.close()
  return writer


def read_lines(workdir):
  """The records, each a line of strict JSON."""

  def refuse(word):
    raise AssertionError(f"{word} is not JSON")

  text = (workdir / "metrics.jsonl").read_text()
  assert text.endswith("\n")
  return [json.loads(x, parse_constant=refuse) for x in text.splitlines()]


def test_every_step_is_a_line(tmp_path):
  writer = write(tmp_path, range(1, 6))
  assert writer.num_dropped == 0
  assert read_lines(tmp_path) == [
    {"step": s, "loss": 1 / s} for s in range(1, 6)
  ]


@pytest.mark.parametrize("resumed_from", [0, 1, 5, 9, 10, 100])
def test_resuming_drops_only_later_lines(tmp_path, resumed_from):
  write(tmp_path, range(1, 11))
  before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(True)
  writer = metric_writer.MetricWriter(tmp_path, resumed_from)
  writer.close()
  after = (tmp_path / "metrics.jsonl").read_bytes()
  assert after == b"".join(before[:resumed_from])
  assert writer.num_dropped == max(10 - resumed_from, 0)
  assert any("replaced" in n for n in writer.notes()) == (resumed_from < 10)
  replaced = tmp_path / "metrics.jsonl.replaced"
  if resumed_from == 0:  # No later start writes those rows again.
    assert replaced.read_bytes() == b"".join(before)
  else:
    assert not replaced.exists()


def test_an_interrupted_run_leaves_the_lines_of_an_uninterrupted_one(tmp_path):
  whole, halves = tmp_path / "whole", tmp_path / "halves"
  whole.mkdir()
  halves.mkdir()
  write(whole, range(1, 21))
  write(halves, range(1, 14))
  write(halves, range(9, 21), resumed_from=8)
  name = "metrics.jsonl"
  assert (halves / name).read_bytes() == (whole / name).read_bytes()


FOREIGN = [
  b"\x00" * 50,
  b'{"step": 1, "l\xff',
  b'{"step": 7, "lo{"step": 15, "loss": 1.0}',
  b"epoch 3: loss 2.1",
  b"null",
  b"[1, 2]",
  b'{"loss": 1.0}',
  b'{"step": "3", "loss": 1.0}',
  b'{"step": 3, "loss": "low"}',
  b'{"step": 3, "loss": [1.0]}',
  b"[" * 100_000,
]


@pytest.mark.parametrize("kept", [1, 8, 12, -2])
def test_a_truncated_line_is_set_aside(tmp_path, kept):
  write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  first, second = path.read_bytes().splitlines(True)
  path.write_bytes(first + second[:kept])
  writer = write(tmp_path, [3], resumed_from=2)
  assert (writer.num_dropped, writer.num_unreadable) == (0, 1)
  assert writer.gaps == [(2, 2)]
  assert [r["step"] for r in read_lines(tmp_path)] == [1, 3]
  aside = tmp_path / "metrics.jsonl.unreadable"
  assert aside.read_bytes() == second[:kept] + b"\n"


def test_a_complete_last_line_without_a_line_feed_is_kept(tmp_path):
  write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-1])
  writer = write(tmp_path, [3], resumed_from=2)
  assert [r["step"] for r in read_lines(tmp_path)] == [1, 2, 3]
  assert writer.notes() == []


@pytest.mark.parametrize("junk", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_unreadable_line_affects_no_other(tmp_path, capsys, junk, place):
  write(tmp_path, [1, 2, 3, 4])
  path = tmp_path / "metrics.jsonl"
  lines = path.read_bytes().splitlines()
  lines.insert(place, junk)
  path.write_bytes(b"\n".join(lines) + b"\n")
  assert [r["step"] for r in metric_rows.read_rows(path)] == [1, 2, 3, 4]
  assert "1 unreadable" in capsys.readouterr().err
  writer = write(tmp_path, [4], resumed_from=3)
  assert [r["step"] for r in read_lines(tmp_path)] == [1, 2, 3, 4]
  assert (writer.num_dropped, writer.num_unreadable) == (1, 1)
  (note,) = writer.notes()
  assert "1 lines could not be read" in note and "missing" not in note
  aside = tmp_path / "metrics.jsonl.unreadable"
  assert aside.read_bytes() == junk + b"\n"
  assert write(tmp_path, [], resumed_from=4).notes() == []


def test_lines_set_aside_accumulate(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for junk in (b"one\n", b"two\n"):
    path.write_bytes(junk)
    metric_writer.MetricWriter(tmp_path, 0).close()
  aside = tmp_path / "metrics.jsonl.unreadable"
  assert aside.read_bytes() == b"one\ntwo\n" and not path.read_bytes()


@pytest.mark.parametrize(
  ("there", "step", "every", "gaps"),
  [
    (range(1, 21), 20, 1, []),
    (range(1, 7), 20, 1, [(7, 20)]),
    ([], 20, 1, [(1, 20)]),
    ([], 20, 21, []),
    ([1, 2, 5, 6, 9], 9, 1, [(3, 4), (7, 8)]),
    (range(5, 31, 5), 33, 5, []),
    ([5, 10, 25, 30], 33, 5, [(11, 24)]),
    ([5, 10], 33, 5, [(11, 33)]),
    ([1, 2, 3, 9], 3, 1, []),
  ],
)
def test_missing_rows_are_reported(there, step, every, gaps):
  rows = [{"step": s, "loss": 1.0} for s in there]
  assert metric_rows.gaps(rows, step, every) == gaps
  # Held-out losses are rows of their own, of some steps.
  rows.append({"step": step, "eval_loss": 1.0})
  assert metric_rows.gaps(rows, step, every) == gaps


def test_a_line_being_written_is_not_reported_as_unreadable(tmp_path, capsys):
  write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes() + b'{"step": 3, "lo')
  assert [r["step"] for r in metric_rows.read_rows(path)] == [1, 2]
  assert capsys.readouterr().err == ""


def test_several_lines_of_one_step_stay_together(tmp_path):
  # Training and held-out metrics of a step are lines of their own.
  for name in ("loss", "eval_loss"):
    write(tmp_path, [1, 2, 3], resumed_from=9, **{name: 0.5})
  write(tmp_path, [3], resumed_from=2)
  assert [r["step"] for r in read_lines(tmp_path)] == [1, 2, 1, 2, 3]


def test_nonfinite_values_become_strings(tmp_path):
  write(tmp_path, [1], a=math.nan, b=math.inf, c=-math.inf, d=0.0)
  (record,) = read_lines(tmp_path)
  assert record == {"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": 0.0}
  assert [str(float(record[k])) for k in "abc"] == ["nan", "inf", "-inf"]


def test_the_bits_of_numbers_survive(tmp_path):
  rng = random.Random(0)
  values = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(1000)]
  values = [v for v in values if math.isfinite(v)]
  values += [0.0, -0.0, 5e-324, 0.1 + 0.2, 2.0**53 + 2]
  write(tmp_path, [1], **{str(i): v for i, v in enumerate(values)})
  (record,) = read_lines(tmp_path)
  for i, value in enumerate(values):
    assert struct.pack("<d", record[str(i)]) == struct.pack("<d", value)


def test_integers_stay_integers(tmp_path):
  write(tmp_path, [1], tokens=2**53 + 1)
  (record,) = read_lines(tmp_path)
  assert record["tokens"] == 2**53 + 1
  assert isinstance(record["tokens"], int)


def test_lines_can_be_read_during_the_run(tmp_path):
  writer = metric_writer.MetricWriter(tmp_path, 0)
  writer.write(1, {"loss": 2.0})
  assert read_lines(tmp_path) == [{"step": 1, "loss": 2.0}]
  writer.close()


def test_no_other_file_is_left_behind(tmp_path):
  write(tmp_path, [1, 2, 3])
  write(tmp_path, [2], resumed_from=1)
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_pending_held_out_loss_is_written_once(tmp_path):
  write(tmp_path, [1, 2])
  write(tmp_path, [2], resumed_from=2, eval_loss=3.0)
  before = read_lines(tmp_path)
  writer = metric_writer.MetricWriter(tmp_path, 2, evaluation_due=True)
  writer.write(2, {"eval_loss": 3.0})
  writer.close()
  assert writer.num_dropped == 1 and read_lines(tmp_path) == before
