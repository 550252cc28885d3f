"""Evaluations of structure, one file each."""
