"""Floors: SAEs that learned nothing, by which a score is read."""
