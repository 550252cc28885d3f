"""Ground truth: synthetic models whose features, rates and structure are known."""
