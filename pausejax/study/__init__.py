"""Studies: the runs of a study, their table, and their report."""
