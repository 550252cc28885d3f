"""Faithful: are dictionaries of a model's own text more faithful to the model."""
