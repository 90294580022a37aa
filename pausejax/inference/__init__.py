"""Inference: prefill of prefix and pauses in one pass, then decoding."""
