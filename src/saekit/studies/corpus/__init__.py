"""A language model's own text, and measures of any text next to it."""
