"""Sentences that say when a latent is on: made by language models, and how right they are."""
