"""The time left that a run shows."""

import pytest

from pausejax.runtime.progress import ProgressBar


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.5, "49 s left"), (5.0, "8 min left"), (500.0, "13.6 h left")],
)
def test_the_first_step_does_not_count(seconds, text, monkeypatch, capsys):
  monkeypatch.setattr("pausejax.runtime.progress._SECONDS_BETWEEN_LINES", 0.0)
  bar = ProgressBar(0, 100, 100)
  bar.update(1, 5.0, 10.0, 1000.0)
  first = capsys.readouterr().out
  assert "step 1/100  loss 5.0000  10 tokens/s" in first
  assert "left" not in first
  bar.update(2, 5.0, 10.0, seconds)
  assert text in capsys.readouterr().out
  bar.update(100, 5.0, 10.0, seconds)
  assert "left" not in capsys.readouterr().out


def test_a_resumed_run_counts_from_its_second_step(monkeypatch, capsys):
  monkeypatch.setattr("pausejax.runtime.progress._SECONDS_BETWEEN_LINES", 0.0)
  bar = ProgressBar(50, 100, 100)
  bar.update(51, 5.0, 10.0, 1000.0)
  bar.update(52, 5.0, 10.0, 2.0)
  assert "96 s left" in capsys.readouterr().out


def test_a_run_that_stops_early_has_the_time_until_then(monkeypatch, capsys):
  bar = ProgressBar(0, 1000, 20)
  for step in range(1, 20):
    bar.update(step, 5.0, 10.0, 2.0)
  assert capsys.readouterr().out == ""
  bar.update(20, 5.0, 10.0, 2.0)  # Its last line.
  assert capsys.readouterr().out == "step 20/1000  loss 5.0000  10 tokens/s\n"
  monkeypatch.setattr("pausejax.runtime.progress._SECONDS_BETWEEN_LINES", 0.0)
  bar.update(10, 5.0, 10.0, 2.0)
  assert "20 s left" in capsys.readouterr().out
