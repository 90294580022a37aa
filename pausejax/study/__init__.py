"""Studies: which runs to make, their table, and their report."""
