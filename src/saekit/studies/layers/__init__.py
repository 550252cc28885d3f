"""One SAE over many layers: where its latents live, in one pass over a corpus."""
