"""Statistics of the whole package: intervals, rank correlations and permutation tests."""
