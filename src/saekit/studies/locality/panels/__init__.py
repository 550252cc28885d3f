"""Panels of locality: what the study knows of one latent."""
