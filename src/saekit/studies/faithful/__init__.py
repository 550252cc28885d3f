"""Dictionaries trained on a model's own text, compared with those of other text."""
