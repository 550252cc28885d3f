"""Evaluations of an SAE over layers."""
