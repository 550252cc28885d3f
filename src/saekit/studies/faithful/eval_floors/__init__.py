"""Floors that are made as in training: scaled, or fitted to the training text."""
