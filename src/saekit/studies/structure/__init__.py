"""Structure: how latents share one thing among them, and what decoder directions have in common."""
