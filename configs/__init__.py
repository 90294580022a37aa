"""Experiments as Python: each file makes one config tree from `base.py`."""
