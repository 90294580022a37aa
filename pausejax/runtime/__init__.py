"""The runtime of a run: processes, signals, metrics, progress, FLOPs."""
