"""Figures of an SAE over layers."""
