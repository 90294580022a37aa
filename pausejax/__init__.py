"""Pause-token pretraining, finetuning and inference in JAX."""

__version__ = "0.2.0"
