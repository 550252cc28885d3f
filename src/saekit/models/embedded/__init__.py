"""Models that come inside published wheels."""
