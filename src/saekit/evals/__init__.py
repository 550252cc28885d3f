"""Evaluations of SAEs on text they were not trained on, one file each."""
