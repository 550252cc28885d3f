"""How much each token of a window moves a latent."""
