"""Which windows of a corpus may be used: one file a kind of text."""
