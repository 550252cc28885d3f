"""Pages of layers: what a folder of the study holds."""
