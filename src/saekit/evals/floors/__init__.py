"""Floors: SAEs that learned nothing, next to which a score is read."""
