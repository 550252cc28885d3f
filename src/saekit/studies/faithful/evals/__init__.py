"""Evaluations of the study of faithful dictionaries."""
