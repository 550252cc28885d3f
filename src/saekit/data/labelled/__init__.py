"""Labelled texts, for probes: a task a file."""
