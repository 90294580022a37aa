"""Starts `pausejax train` on many machines; see README.md here."""
