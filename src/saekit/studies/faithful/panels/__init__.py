"""Panels of the study of faithful dictionaries."""
