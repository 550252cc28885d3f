"""Runs over depth and over length of context."""
