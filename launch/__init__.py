"""Starts `pausejax train` on many machines; see launch/README.md."""
