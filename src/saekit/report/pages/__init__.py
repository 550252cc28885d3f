"""Pages: what a folder of a study holds, as blocks, one kind of folder a file."""
