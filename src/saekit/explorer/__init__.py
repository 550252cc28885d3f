"""The explorer: `saekit serve` shows what the latents of every SAE in a folder mean."""
