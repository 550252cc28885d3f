"""Evaluations by intervention."""
