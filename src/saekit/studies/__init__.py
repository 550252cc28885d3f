"""Studies: one folder for each body of work."""
