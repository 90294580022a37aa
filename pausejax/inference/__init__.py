"""Inference: one parallel prefill of prefix and pauses, then decoding."""
