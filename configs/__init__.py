"""Experiments as Python: each file changes the default config."""
