"""Panels of truth: what the study knows of one latent."""
