"""Evaluations of faithful dictionaries."""
