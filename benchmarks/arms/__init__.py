"""The arms of the benchmarks: one model and optimizer in several trainers."""
