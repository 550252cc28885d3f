"""What latents do: evaluations that change them inside the model and look at what follows."""
