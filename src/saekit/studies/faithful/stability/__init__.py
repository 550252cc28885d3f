"""Stability: which latents SAEs of other seeds, orders or texts have too."""
