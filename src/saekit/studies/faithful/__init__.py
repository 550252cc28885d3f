"""Faithful dictionaries: a model's own text, stability over seeds, fake features, probing."""
