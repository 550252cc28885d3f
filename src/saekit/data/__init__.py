"""Text: corpora, and rows of tokens made from them."""
