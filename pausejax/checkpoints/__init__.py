"""Checkpoints: saved atomically, checked when they are read."""
