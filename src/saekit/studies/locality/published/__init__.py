"""The published data set's files, read and written."""
