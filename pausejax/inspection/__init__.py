"""What a batch holds, and what is checked of it."""
