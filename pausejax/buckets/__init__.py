"""Runs and stores in buckets: gs:// and s3:// URLs."""
