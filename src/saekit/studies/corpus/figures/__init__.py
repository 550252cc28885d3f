"""Figures of corpora."""
