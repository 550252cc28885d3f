"""Figures of sensitivity."""
