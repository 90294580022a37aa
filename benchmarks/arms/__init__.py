"""What is compared: the same model, shape and optimizer in several hands."""
