"""Documents as segments on disk, and segments as batches of a step."""
