"""What surrounds a run: metrics, signals, speed."""
