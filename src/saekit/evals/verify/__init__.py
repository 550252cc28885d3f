"""Verify: is this SAE loaded right, at the right place of the right model?"""
