"""Panels of layers: what the study knows of one latent."""
