"""Which windows of a text are measured."""
