"""Panels: what is known of one latent beyond its index, one kind of evidence a file."""
