"""Figures of the study of faithful dictionaries."""
