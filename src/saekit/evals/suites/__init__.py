"""Suites: several evaluations of the same SAEs, with what makes their scores believable."""
