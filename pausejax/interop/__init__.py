"""Models of other libraries: read into a run, and written from one."""
