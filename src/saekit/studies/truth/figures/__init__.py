"""Figures of what an SAE found of a truth."""
