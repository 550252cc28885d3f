"""From text and a model to streams of activations and stores of codes."""
