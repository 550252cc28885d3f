"""What the pages show of the sensitivity of a latent."""
