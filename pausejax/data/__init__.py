"""Data: text to batches of numpy arrays. Only `seqio/` uses TensorFlow."""
