"""Language models, and where in them activations are taken."""
