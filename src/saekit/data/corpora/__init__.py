"""Corpora: one file each."""
