"""Checks whether a run fits absent devices, with the devices' compiler."""
