"""Words: what the scores and columns of the study are called, read without importing PyTorch."""

from saekit.report.definitions import definitions

_OWN = {
    "mcc": "MCC with true features",
    "mcc_chance": "MCC of random directions (at most)",
    "f1": "F1 of living latents",
    "precision": "precision of living latents",
    "recall": "recall of living latents",
    "f1_all": "F1 of all latents (dead as 0)",
    "precision_all": "precision of all latents (dead as 0)",
    "recall_all": "recall of all latents (dead as 0)",
    "uniqueness": "uniqueness of living latents",
    "uniqueness_all": "uniqueness of all latents",
    "found": "features found (share)",
    "splitting": "features found that are split (share)",
    "hedging": "latents of several features (share)",
    "hedging_truth": "features near another (share)",
    "absorption": "tokens with an absorbed parent (share)",
    "r2": "variance explained (R2)",
    "l0_true": "features per token",
    "l0_error": "latents less features per token",
    "max_cosine": "cosine with nearest other latent",
    "stability": "cosine with nearest of other seed",
    "hit_rate": "fires again for the same features",
}
# Of a latent: what a column is called, its unit, and what it is.
COLUMNS = {
    "density": ("density", "share of samples", "Share of the truth's samples on which it is on."),
    "feature": ("feature", "", "The true feature whose direction is nearest to what it writes."),
    "cosine": ("cosine", "", "Of what it writes with the direction of that feature."),
    "precision": ("precision", "share", "Of the samples where it is on, those where that is."),
    "recall": ("recall", "share", "Of the samples where the feature is on, those where it is."),
    "f1": ("F1", "", "Harmonic mean of precision and recall."),
    "matched_feature": ("matched feature", "", "In the one-to-one matching; none where empty."),
}


def label(score: str) -> str:
    """Return what a score is called in words: a metric of every SAE as everywhere."""
    return _OWN.get(score) or str(definitions().get(score, {}).get("label") or score)
