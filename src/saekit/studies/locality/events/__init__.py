"""Where latents are strongest, and how far back they look there."""
