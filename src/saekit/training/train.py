"""`saekit.train`: one call from a model, a site and a text to a trained SAE."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.data.base import Corpus
from saekit.data.open import as_corpus
from saekit.hub.native import load
from saekit.hub.opening import model_of
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
    settings_of_sae,
    with_length,
)
from saekit.training.loop import train as train_run
from saekit.training.run import Run
from saekit.training.starting import settings_of, started

Sites = SiteName | Sequence[SiteName]


def train(  # noqa: PLR0913 - the words of `saekit train`
    lm: LanguageModel | str | None = None,
    *,
    site: Sites | None = None,
    target: Sites | None = None,
    fold: bool = False,
    sae: SAEConfig | Unsized | str | None = None,
    corpus: Corpus | Path | str | Sequence[str] = "packaged",
    tokens: int | None = None,
    epochs: int = 1,
    seed: int = 0,
    start_from: TrainedSAE | Path | str | None = None,
    out: Path | str | None = None,
    run: Run | None = None,
    resume: bool = False,
    latent_shards: int = 1,
    shown: bool = True,
    **settings: Any,
) -> TrainedSAE:
    """Train an SAE on a language model's activations, and leave it in a folder.

    Args:
        lm: the language model, or its name; None: smollm2-135m, or that of `start_from`.
        site: where to read, as "L10.resid_post"; several for a crosscoder or, with `fold`, for one
            SAE over them; None: the layer a third of the way up, resid_post.
        target: what to predict, for a transcoder; None: what is read.
        fold: each site of a token is a row of its own.
        sae: the architecture with its settings, as ``TopK(k=32, expansion=8)``, or its name.
            Widths are filled in; without `d_sae` or `expansion` there are 8 latents a dimension.
            None: topk.
        corpus: text, by name or file as on the command line; or a list of texts.
        tokens: tokens of text that count, 1 or more; None: 10,000,000, or all the text has.
        epochs: passes over them.
        seed: decides initialisation and order.
        start_from: an SAE, or the folder of one, whose training goes on from its weights; it has
            its own architecture and sizes, and its site and rows unless others are named.
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
    start = None if start_from is None else started(start_from)
    if lm is None and start is not None:
        lm = model_of(start, "auto")
    model = load_model(lm or DEFAULT_MODEL) if lm is None or isinstance(lm, str) else lm
    if run is None:
        text = as_corpus(corpus)
        raw = {
            "model": model.name,
            "revision": settings.pop("revision", None),
            "corpus": text.to_dict(),
            "seed": seed,
            "epochs": epochs,
            "tokens": DEFAULT_TOKENS if tokens is None else tokens,
        }
        read, write = _names(site), _names(target)
        if start is None:
            pair = {"read": read or [default_site(model)], "write": write, "fold": fold}
            raw |= {"pair": pair, "sae": settings_of_sae(sae)}
        elif sae is not None or fold:
            raise ConfigError(
                f"Architecture, sizes and folding are those of the SAE to begin from; got "
                f"{'fold' if sae is None else repr(sae)} too. Leave it out."
            )
        else:
            normalise = settings.get("normalise", Run.normalise)
            raw |= settings_of(start, normalise, read=read, write=write)
        run = as_run(raw | settings, model, [])
        run = with_length({"": run}, model, tokens, None, shown=shown)[""]
    elif settings:
        raise ConfigError(f"Give `run` or settings, not both; got {', '.join(settings)} too.")
    folder = default_folder(run, model) if out is None else Path(out)
    if resume and out is None:
        raise ConfigError("Name the folder of the run to go on with: out=.")
    made = train_run(
        run, model, folder, resume=resume, shown=shown, latent_shards=latent_shards, start=start
    )
    found = load(made, site=str(run.pair.reads[0]) if run.pair.shares else None)
    return dataclasses.replace(found, folder=folder)


def _names(sites: Sites | None) -> list[str]:
    if sites is None:
        return []
    return [str(s) for s in ([sites] if isinstance(sites, str | Site) else sites)]
