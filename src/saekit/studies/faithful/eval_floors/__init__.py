"""Floors that are trained nothing, but scaled as in training."""
