"""Evaluations: one file each."""
