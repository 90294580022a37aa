"""Benchmarks, one command each; every result includes its conditions."""
