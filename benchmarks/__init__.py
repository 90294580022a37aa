"""Measurements, one command each; every one prints what it counted."""
