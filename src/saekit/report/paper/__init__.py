"""A folder for a paper: figures as PDF, the numbers of each as CSV, tables for LaTeX."""
