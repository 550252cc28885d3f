"""Noises: a way to make rows of tokens that mean nothing, one file each."""
