"""Damaged input for every reader: mutations, readers, and the check."""
