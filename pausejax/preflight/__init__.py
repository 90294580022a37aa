"""Whether a run fits devices that are not there, by their own compiler."""
