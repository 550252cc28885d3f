"""SAEs on disk."""
