"""Starts `pausejax train` on many machines; README.md here tells how."""
