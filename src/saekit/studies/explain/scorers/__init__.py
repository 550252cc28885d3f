"""Ways of scoring an explanation, one file each."""
