"""Probing: what the pauses of a trained model do, by changing them.

forward    one pass in which pauses are cut off, replaced or transplanted
sequences  the examples of a task as rows of that pass
measure    every lesion of every example
verdict    intervals, and the rule that names the result
results    results on disk, without JAX
"""
