"""Indexing: encode a corpus once, keep every code, and find each latent's best contexts."""



