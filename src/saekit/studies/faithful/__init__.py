"""Faithful dictionaries: a model's own text, agreement of seeds, fake features, probing."""
