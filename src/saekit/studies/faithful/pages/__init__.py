"""Pages of the faithful study."""
