"""Inspection of batches: their contents, and checks of them."""
