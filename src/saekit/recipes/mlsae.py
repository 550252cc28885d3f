"""The multi-layer SAE of the paper, on Pythia 70M: one dictionary for the output of every block."""

from dataclasses import replace

from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core.errors import ConfigError
from saekit.data.corpora.hub import Hub
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK
from saekit.training.optim import Optimiser
from saekit.training.run import Run

N_LAYERS, D_MODEL = 6, 512  # of Pythia 70M
EXPANSION = 64  # the paper's; the original code's default is 16
TEXT_TOKENS = 1_000_000_000
STEP_TOKENS = 64 * 2048  # of text: 64 rows of 2048, each at every layer
DEAD_AFTER_TOKENS = 10_000_000  # of text


def mlsae() -> Run:
    """Return the published run. A token counts once at each of 6 sites, so counts are times 6.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, section 3 and appendix; tim-lawson/mlsae@ba90c51,
        train.py. Differs: special tokens are left out, not zeroed; layers and tokens are
        shuffled; the loss is taken where tokens are standardised, each counting alike; dead
        latents are counted in tokens, as its documentation says; Adam's epsilon is 1e-8.
    """
    d, n = D_MODEL, EXPANSION * D_MODEL
    inner = TopK(d_in=d, d_out=d, d_sae=n, k=32, aux_k=256, aux_coefficient=1 / 32)
    return Run(
        model="EleutherAI/pythia-70m-deduped",
        pair=Pair(read=tuple(f"L{i}.resid_post" for i in range(N_LAYERS)), fold=True),
        corpus=Hub(repo="monology/pile-uncopyrighted"),
        sae=Standardised(d_in=d, d_out=d, d_sae=n, inner=inner, inverse="published", bias="shared"),
        tokens=TEXT_TOKENS * N_LAYERS,
        n_ctx=2048,
        bos=False,
        rule=TokenRule(max_norm=None),
        normalise="none",
        centre="none",
        batch_tokens=STEP_TOKENS * N_LAYERS,
        buffer_tokens=2 * STEP_TOKENS * N_LAYERS,
        lr=1e-4,
        warm_up_steps=0,
        schedule="constant",
        optimiser=Optimiser(beta1=0.9, beta2=0.999),
        clip_norm=None,
        dead_after_tokens=DEAD_AFTER_TOKENS * N_LAYERS,
        seed=42,
    )


def single_layer(run: Run, site: str) -> Run:
    """Return a run of one layer to set beside a shared one: the same text, steps and settings.

    It sees the tokens of that layer that the shared run saw, in as many optimiser steps, each with
    as many tokens of that layer.

    Raises:
        ConfigError: the run is not one of several folded layers, or does not read this one.
    """
    n_sites = len(run.pair.read)
    if not run.pair.fold or site not in run.pair.read or run.pair.write:
        raise ConfigError(
            f"The run must be an autoencoder that shares one SAE among {site} and other layers "
            f"(fold=True); it is {run.pair.label}, {'folded' if run.pair.fold else 'not folded'}."
        )
    tokens = run.tokens // n_sites
    batch = max(1, run.step_tokens // n_sites)
    return replace(
        run,
        pair=Pair(read=(site,)),
        tokens=tokens,
        batch_tokens=batch,
        buffer_tokens=max(run.buffer_tokens // n_sites, batch),
        lr=run.peak_lr,
        dead_after_tokens=max(1, run.dead_after // n_sites),
        checkpoint_tokens=None,
    )
