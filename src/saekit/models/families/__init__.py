"""Where each site is in a family of models: one file each."""
