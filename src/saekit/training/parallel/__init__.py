"""One training by several processes: rows dealt, latents shared, checkpoints in parts."""
