"""Soak tests: real programs, killed, stopped and damaged for a long time.

`python -m tests.soak SCENARIO` runs one; each prints what it counted. The tests
of CI run the same functions with small numbers.
"""
