"""Toy: a study in one folder."""

from pathlib import Path


def weigh(folder: Path) -> int:
    """Return how many bytes the weights of a run's SAE have."""
    return (folder / "sae" / "weights.safetensors").stat().st_size
