"""Figures of faithful dictionaries."""
