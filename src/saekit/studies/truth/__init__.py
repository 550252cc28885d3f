"""Synthetic models whose features are known, and what SAEs find of them."""
