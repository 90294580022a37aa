"""What a run can be told: the fields, their values in files, and their help."""
