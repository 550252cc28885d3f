"""Dictionaries fitted to activations by a procedure of its own, with no gradient: a file each."""
