"""Fake features: latents that fire on noise."""
