"""Panels of explanations."""
