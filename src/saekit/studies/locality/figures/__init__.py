"""Figures of locality."""
