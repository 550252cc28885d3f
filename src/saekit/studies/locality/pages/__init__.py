"""Pages of locality: what a folder of the study holds."""
