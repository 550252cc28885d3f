"""Sensitivity: whether a latent fires on newly written text of the same meaning."""
