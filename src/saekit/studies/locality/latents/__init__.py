"""Latents compared: directions, corners, breadth."""
