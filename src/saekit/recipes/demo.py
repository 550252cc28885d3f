"""The demonstration: a TopK SAE after layer 10 of 30 of SmolLM2-135M-Instruct, on two cores."""

from saekit.activations.pairs import Pair
from saekit.data.corpora.packaged import Packaged
from saekit.saes.topk import TopK
from saekit.training.run import Run


def demo() -> Run:
    """Return the run that `saekit demo` does."""
    return Run(
        model="smollm2-135m",
        pair=Pair(read=("L10.resid_post",)),
        corpus=Packaged(sets=("news", "yelp")),
        sae=TopK(d_in=576, d_out=576, d_sae=4096, k=32),
        tokens=300_000,
        epochs=3,
        batch_tokens=1024,
        dead_after_tokens=60_000,
        seed=0,
    )
