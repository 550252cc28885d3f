"""`saekit.train`: one call from a model, a site and a text to a trained SAE."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.data.base import Corpus
from saekit.data.open import open_corpus
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, SiteName, default_site
from saekit.models.hf import load as load_model
from saekit.models.sites import Site
from saekit.saes.base import SAEConfig, Unsized
from saekit.training.building import (
    DEFAULT_MODEL,
    DEFAULT_TOKENS,
    as_run,
    default_folder,
    with_length,
)
from saekit.training.loop import train as train_run
from saekit.training.run import Run

Sites = SiteName | Sequence[SiteName]


def train(  # noqa: PLR0913 - the words of `saekit train`
    lm: LanguageModel | str = DEFAULT_MODEL,
    *,
    site: Sites | None = None,
    target: Sites | None = None,
    fold: bool = False,
    sae: SAEConfig | Unsized | str = "topk",
    corpus: Corpus | Path | str = "packaged",
    tokens: int | None = None,
    epochs: int = 1,
    seed: int = 0,
    out: Path | str | None = None,
    run: Run | None = None,
    resume: bool = False,
    latent_shards: int = 1,
    shown: bool = True,
    **settings: Any,
) -> TrainedSAE:
    """Train an SAE on a language model's activations, and leave it in a folder.

    Args:
        lm: the language model, or its name.
        site: where to read, as "L10.resid_post"; several for a crosscoder or, with `fold`, for one
            SAE over them; None: the layer a third of the way up, resid_post.
        target: what to predict, for a transcoder; None: what is read.
        fold: each site of a token is a row of its own.
        sae: the architecture with its settings, as ``TopK(k=32, expansion=8)``, or its name.
            Widths are filled in; without `d_sae` or `expansion` there are 8 latents a dimension.
        corpus: text, by name or file as on the command line.
        tokens: tokens of text that count, 1 or more; None: 10,000,000, or all the text has.
        epochs: passes over them.
        seed: decides initialisation and order.
        out: the folder to make; None: one under ``runs`` whose name tells settings apart.
        run: the whole description instead of all the above, as of a recipe.
        resume: go on with the run in `out`; the rest must be what it was begun with.
        latent_shards: processes over which latents are dealt; see docs/scale.md.
        shown: show progress on stderr.
        settings: any other setting of `Run`, as ``lr=3e-4`` or ``n_ctx=256``.

    Returns:
        the finished SAE, with the folder it is in.

    Raises:
        ConfigError: a setting is unknown or out of range, or `out` is in use.
        DataError: the text is shorter than `tokens`, or activations are not finite.
    """
    model = load_model(lm) if isinstance(lm, str) else lm
    if run is None:
        config = {"name": sae} if isinstance(sae, str) else sae.to_dict()
        text = corpus if isinstance(corpus, Corpus) else open_corpus(str(corpus))
        raw = {
            "model": model.name, "revision": settings.pop("revision", None),
            "pair": {
                "read": _names(site) or [default_site(model)], "write": _names(target), "fold": fold
            },
            "corpus": text.to_dict(), "sae": config, "seed": seed, "epochs": epochs,
            "tokens": DEFAULT_TOKENS if tokens is None else tokens, **settings,
        }  # fmt: skip
        run = with_length({"": as_run(raw, model, [])}, model, tokens, None, shown=shown)[""]
    elif settings:
        raise ConfigError(f"Give `run` or settings, not both; got {', '.join(settings)} too.")
    folder = default_folder(run, model) if out is None else Path(out)
    if resume and out is None:
        raise ConfigError("Name the folder of the run to go on with: out=.")
    made = train_run(
        run, model, folder, resume=resume, shown=shown, latent_shards=latent_shards
    )
    found = load(made, site=str(run.pair.reads[0]) if run.pair.shares else None)
    return dataclasses.replace(found, folder=folder)


def _names(sites: Sites | None) -> list[str]:
    if sites is None:
        return []
    return [str(s) for s in ([sites] if isinstance(sites, str | Site) else sites)]
