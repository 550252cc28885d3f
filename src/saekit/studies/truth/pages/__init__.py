"""Pages of truth: what a folder of the study holds."""
