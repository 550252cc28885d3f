"""What the sparse path runs on: choices of latents, maps on codes, kernels for CPUs and GPUs."""
