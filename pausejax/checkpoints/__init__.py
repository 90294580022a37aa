"""Checkpoints: atomic commits of separate items, read back strictly."""
