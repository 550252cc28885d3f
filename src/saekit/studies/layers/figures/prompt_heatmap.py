"""Prompt heatmap: P(layer | latent) over one prompt."""

from pathlib import Path

from saekit.studies.layers.distributions import distribution
from saekit.studies.layers.figures import layer_heatmap
from saekit.studies.layers.prompt import PromptReading


def draw(reading: PromptReading, path: Path, least: float = 1e-3) -> None:
    """Draw the latents that were active on a prompt, as the layer heatmap does for a corpus.

    Args:
        reading: of the prompt.
        path: ends in a suffix of a figure.
        least: latents whose summed strength is at most this at every layer are left out.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    totals = reading.sums.totals
    some = totals.amax(0) > least
    found = distribution(totals.where(some, 0.0), reading.sums.numbers)
    shown = reading.prompt if len(reading.prompt) < 70 else reading.prompt[:67] + "..."
    sites = [str(s) for s in reading.codes]
    layer_heatmap.draw(
        found, sites, path, title=_plain(shown), population=f" on {reading.sums.n_tokens} tokens"
    )


def _plain(text: str) -> str:
    """Return text that matplotlib writes as it is: no mathematics, no line breaks."""
    return " ".join(text.split()).replace("$", r"\$")
