"""Figures for papers, one file each: what is drawn is written beside it as CSV."""
