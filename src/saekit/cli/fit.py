"""`saekit fit`: a dictionary that is fitted to activations, not trained by gradients."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.cli.train import CorpusWord, Model
from saekit.terminal.common_options import AsJson, Device, Dtype, Quiet, Revision, Seed
from saekit.terminal.output import emit


def fit(
    method: Annotated[
        str, typer.Argument(help="Method to find the dictionary with (see: saekit list fits).")
    ],
    model: Model = None,
    revision: Revision = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Place in the model to read, as L3.resid_post. [resid_post of the layer a third "
            "of the way up]"
        ),
    ] = None,
    corpus: CorpusWord = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to fit to, not counting those that the token rule leaves out. [1,000,000, "
            "or all that the text has]"
        ),
    ] = None,
    d_sae: Annotated[
        int | None, typer.Option(help="Number of latents. [depends on the method]")
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Most latents on per token. [depends on the method]")
    ] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the method, as rounds=50, or of how text is read, as n_ctx=64. "
            "Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the SAE to. [runs/MODEL-SITE-METHOD-WIDTH-kK-seedSEED-DIGEST]"
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find a dictionary without training, such as PCA or k-means, and write it as an SAE.

    Example: saekit fit pca --site L10.resid_post --tokens 100k --k 32
    """
    from saekit.core.config import read_setting
    from saekit.data.open import open_corpus
    from saekit.models.base import default_site
    from saekit.models.hf import load
    from saekit.training.building import DEFAULT_MODEL
    from saekit.training.dictionary import (
        as_fit,
        default_folder,
        fit_run,
        split_settings,
        with_settings,
    )

    reading, own = split_settings([read_setting(s) for s in settings or []])
    found = with_settings(method, own)
    text = open_corpus(corpus or "packaged").to_dict()
    lm = load(model or DEFAULT_MODEL, revision=revision, dtype=dtype, device=device)
    raw = {
        "model": model or DEFAULT_MODEL,
        "revision": revision,
        "corpus": text,
        "pair": {"read": [str(lm.site(site or default_site(lm)))]},
        "seed": seed,
        **reading,
    }
    run = as_fit(raw, lm, found, tokens=tokens, sizes=(d_sae, k), shown=not quiet)
    folder = out or default_folder(run, found, lm)
    made = fit_run(run, found, lm, folder, shown=not quiet)
    told = made.card.provenance["fit_found"]
    record = {"sae": str(folder), "tokens": made.card.tokens, "fitted": found.to_dict()}
    record["found"] = told
    facts = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in told.items()
        if isinstance(value, int | float)
    )
    lines = [
        f"SAE      {folder}, {made!r}",
        *([f"found    {facts}"] if facts else []),
        f"next     saekit eval {folder}",
    ]
    emit(record, as_json=as_json, lines=lines)
