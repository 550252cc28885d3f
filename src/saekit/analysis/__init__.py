"""Analyses of a LatentStore: one file each."""
