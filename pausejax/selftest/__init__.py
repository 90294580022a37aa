"""Checks a machine: its disk, devices, and whether a run survives kills."""
