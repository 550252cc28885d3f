"""`saekit train`: from a model, a site and a text to an SAE."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.config import read_setting
from saekit.core.errors import ConfigError
from saekit.terminal.common_options import AsJson, Device, Dtype, Quiet, Revision
from saekit.terminal.output import emit
from saekit.training.building import (
    DEFAULT_MODEL,
    as_run,
    check_flags,
    default_folder,
    made_of,
    with_length,
)
from saekit.training.sources import given, open_cache, resumed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saekit.training.run import Run

Model = Annotated[
    str | None,
    typer.Option(
        help="Language model: a name on the Hugging Face hub, a folder, or an embedded model (see: "
        f"saekit list models). [{DEFAULT_MODEL}]"
    ),
]
Site = Annotated[
    list[str] | None,
    typer.Option(
        help="Place in the model to read, as L3.resid_post. For several: L*.resid_post, "
        "L0-5.resid_post, or repeat. [resid_post of the layer a third of the way up]"
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help="Site to predict, for a transcoder; with --activations, files with the vector to "
        "predict for each row. [what is read]"
    ),
]
Fold = Annotated[
    bool,
    typer.Option(
        "--fold",
        help="Train one SAE that all sites share: each site of a token is an example of its own.",
    ),
]
CorpusWord = Annotated[
    str | None,
    typer.Option(
        help="Text: packaged, stdlib, a file or glob, a hub dataset OWNER/NAME, or shares of "
        "several: '0.7*packaged + 0.3*notes.jsonl'. A single text file is cut at blank "
        "lines, and paragraphs above 16,000 characters also at line ends. [packaged]"
    ),
]
Arch = Annotated[
    str | None, typer.Option(help="Architecture of the SAE (see: saekit list saes). [topk]")
]
Latents = Annotated[
    int | None, typer.Option(help="Number of latents. [8 for each dimension of what is read]")
]
Kept = Annotated[
    float | None,
    typer.Option(
        help="Latents kept per token, for architectures that have k. [the architecture's]"
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens to train on, not counting those that the token rule leaves out; with "
        "--fold, each site of a token counts. [10,000,000, or nearly all that the text "
        "has if that is less; all of a cache]"
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Passes over these tokens. [1; with --activations, enough for a million rows, at "
        "most 50]"
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the first weights and of the order of the text. [0]")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting, as lr=3e-4 or sae.aux_k=64, of those listed below. Repeatable.",
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        help="Train on vectors from files instead of a language model: a folder, a file or a "
        "pattern of .npy, .safetensors, .npz, .parquet or .tar."
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="With --activations: which tensor, array or column to read, if the files have several."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Read activations from this folder (see: saekit cache write) instead of running a "
        "model."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        help="Take the settings from this run.json (or YAML); other options replace "
        "single settings."
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Take the settings of a named run (see: saekit list recipes); other "
        "options replace single settings."
    ),
]


def train(
    model: Model = None,
    revision: Revision = None,
    site: Site = None,
    target: Target = None,
    fold: Fold = False,
    corpus: CorpusWord = None,
    arch: Arch = None,
    d_sae: Latents = None,
    k: Kept = None,
    tokens: Tokens = None,
    epochs: Epochs = None,
    seed: Seed = None,
    settings: Settings = None,
    config: ConfigFile = None,
    recipe: Recipe = None,
    cache: Cache = None,
    activations: Activations = None,
    key: Key = None,
    from_sae: Annotated[
        Path | None,
        typer.Option(
            "--start-from",
            metavar="SAE",
            help="Begin a new run from the weights of this SAE: folder, run or published name.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue the run in this folder, with the settings it was begun with.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the run to. [runs/MODEL-SITE-ARCH-WIDTH-kK-seedSEED-DIGEST]"
        ),
    ] = None,
    latent_shards: Annotated[
        int,
        typer.Option(help="Under torchrun: number of processes that share the latents of the SAE."),
    ] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a sparse autoencoder (SAE) on activations of a language model, or on vectors.

    Example: saekit train --model EleutherAI/pythia-70m-deduped --site L3.resid_post
    --corpus my_text.jsonl --d-sae 8192 --k 32
    """
    from saekit.cli import train_vectors as vectors
    from saekit.core import processes
    from saekit.core.files import read_object
    from saekit.hub.card import Card
    from saekit.training.loop import train as train_run
    from saekit.training.starting import started
    from saekit.training.train import described

    device = processes.own_device(device)
    if activations is not None or (resume is not None and vectors.is_fit(resume)):
        vectors.refuse(
            model=model,
            revision=revision,
            site=site,
            fold=fold or None,
            corpus=corpus,
            config=config,
            recipe=recipe,
            cache=cache,
            latent_shards=None if latent_shards == 1 else latent_shards,
        )
        vectors.train(
            activations,
            target,
            key,
            made=made_of(arch or "topk", d_sae, epochs, seed),
            arch=arch,
            k=k,
            tokens=tokens,
            epochs=epochs,
            settings=settings or [],
            start_from=from_sae,
            resume=resume,
            out=out,
            device=device,
            quiet=quiet,
            as_json=as_json,
        )
        return
    if key is not None:
        raise ConfigError("`--key` is of files of vectors. Name them with --activations.")
    start = None
    if resume is not None:
        lm, run = resumed(resume, cache, device=device, settings=settings or [])
        folder = resume
    else:
        whole_run = whole(config, recipe)
        start = None if from_sae is None else started(from_sae)
        check_flags(arch or "topk", tokens, epochs)
        words = given(
            site=site,
            target=target,
            fold=fold or None,
            sae=arch,
            d_sae=d_sae,
            k=k,
            corpus=corpus,
            tokens=tokens,
            epochs=epochs,
            seed=seed,
            start=start,
            run=whole_run,
        )
        own = dict(map(read_setting, settings or [])) | given(revision=revision)
        held = None if cache is None else open_cache(cache, device)
        lm, raw = described(model, words, own, held, device=device, dtype=dtype)
        run = as_run(raw, lm, [])
        if whole_run is None:
            asked = own.get("tokens", tokens)
            run = with_length({"": run}, lm, asked, shown=not quiet)[""]
        folder = out or default_folder(run, lm)
    with processes.session(lm.device):
        sae = train_run(
            run,
            lm,
            folder,
            resume=resume is not None,
            shown=not quiet,
            latent_shards=latent_shards,
            start=start,
        )
        if not processes.first():
            return
    manifest = read_object(folder / "manifest.json")
    card = Card.from_dict(read_object(sae / "card.json"))
    record = {"run": str(folder), "sae": str(sae), "seconds": manifest["seconds"]}
    lines = [
        f"SAE      {sae}, of {card.pair.label} of {card.model['name']}",
        f"log      {folder / 'log.jsonl'}",
    ]
    lines.append(f"next     saekit eval {folder}")
    emit(record, as_json=as_json, lines=lines)
    exit_in_part([manifest])


def exit_in_part(manifests: "Iterable[dict[str, Any]]") -> None:
    """End with exit code 3 where the text of a run ended before the tokens asked."""
    if any("text_ended" in manifest for manifest in manifests):
        raise typer.Exit(3)


def whole(config: Path | None, recipe: str | None) -> "Run | Path | None":
    """Return the whole description of a run that a file or a name gives, if one does."""
    if config is not None and recipe is not None:
        raise ConfigError("Give --config or --recipe, not both.")
    if recipe is None:
        return config
    from saekit.recipes import get

    return get(recipe)
