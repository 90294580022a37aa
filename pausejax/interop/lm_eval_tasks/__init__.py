"""The nine tasks of the paper as tasks of lm-evaluation-harness."""
