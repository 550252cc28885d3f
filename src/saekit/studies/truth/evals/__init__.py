"""Evaluations against a known truth."""
