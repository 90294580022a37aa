"""The time left that a run shows."""

import pytest

from pausejax.runtime.progress import ProgressBar


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.5, "49 s left"), (5.0, "8 min left"), (500.0, "13.6 h left")],
)
def test_the_first_step_does_not_count(seconds, text, monkeypatch, capsys):
  monkeypatch.setattr("pausejax.runtime.progress._SECONDS_BETWEEN_LINES", 0.0)
  bar = ProgressBar(0, 100)
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
  bar = ProgressBar(50, 100)
  bar.update(51, 5.0, 10.0, 1000.0)
  bar.update(52, 5.0, 10.0, 2.0)
  assert "96 s left" in capsys.readouterr().out
