"""Locality: how many input tokens a latent depends on, by gradients."""
