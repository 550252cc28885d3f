"""Columns of the latents of an index: a group of them in each file."""
