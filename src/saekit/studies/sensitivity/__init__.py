"""Sensitivity: does a latent fire on newly written text of the same meaning?"""
