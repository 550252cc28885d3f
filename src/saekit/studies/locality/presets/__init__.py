"""Models with published SAEs, one file each: what to read, and where its SAEs are."""
