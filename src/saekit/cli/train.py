"""`saekit train`: from a model, a site and a text to an SAE."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.terminal.common_options import AsJson, Device, Dtype, Quiet, Revision
from saekit.terminal.output import emit
from saekit.terminal.run_flags import given, over
from saekit.training.building import (
    DEFAULT_MODEL,
    as_run,
    check_flags,
    check_groups,
    corpus_of,
    default_folder,
    fit_width,
    flags,
    k_setting,
    made_of,
    with_length,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
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
    from saekit.cli.cache import recorded_run
    from saekit.core import processes
    from saekit.core.files import read_object
    from saekit.hub.card import Card
    from saekit.models.hf import load
    from saekit.training.loop import train as train_run

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
        lm, run = _resumed(resume, cache, device, settings or [])
        folder = resume
    elif from_sae is not None:
        if others := given(arch=arch, d_sae=d_sae, fold=fold or None, config=config, recipe=recipe):
            raise ConfigError(
                f"`--{'`, `--'.join(n.replace('_', '-') for n in others)}` does not go with "
                f"--start-from, whose SAE decides it. Leave it out."
            )
        check_flags("topk", tokens, epochs)
        start, lm, raw = _begun_from(
            from_sae,
            cache,
            device,
            dtype,
            settings or [],
            model=model,
            revision=revision,
            site=site,
            target=target,
            corpus=corpus,
            tokens=tokens,
        )
        raw |= {"epochs": epochs or 1, "seed": seed or 0}
        run = as_run(raw, lm, k_setting(raw["sae"]["name"], k) + (settings or []))
        run = with_length({"": run}, lm, tokens, settings, shown=not quiet)[""]
        folder = out or default_folder(run, lm)
    elif config is not None or recipe is not None:
        asked = given(
            model=model,
            revision=revision,
            site=site,
            target=target,
            fold=fold or None,
            corpus=corpus,
            arch=arch,
            d_sae=d_sae,
            tokens=tokens,
            epochs=epochs,
            seed=seed,
        )
        raw = over(start_from(config, recipe), asked)
        if cache is not None:
            lm, raw = recorded_run(cache, device, {}, raw)
        else:
            lm = load(raw["model"], revision=raw.get("revision"), dtype=dtype, device=device)
        fit_width(raw, lm)
        run = as_run(raw, lm, k_setting(raw["sae"].get("name", "topk"), k) + (settings or []))
        folder = out or default_folder(run, lm)
    else:
        arch = arch or "topk"
        check_flags(arch, tokens, epochs)
        made = made_of(arch, d_sae, epochs, seed)
        if cache is not None:
            text = corpus_of(corpus) if corpus is not None else None
            asked = {"model": model, "corpus": text, "site": site, "target": target, "fold": fold}
            lm, raw = recorded_run(cache, device, asked | {"tokens": tokens}, None)
            raw |= made
        else:
            lm = load(model or DEFAULT_MODEL, revision=revision, dtype=dtype, device=device)
            raw = made | flags(
                lm,
                model=model,
                revision=revision,
                site=site,
                target=target,
                fold=fold,
                corpus=corpus,
                tokens=tokens,
            )
        run = as_run(raw, lm, k_setting(arch, k) + (settings or []))
        run = with_length({"": run}, lm, tokens, settings, shown=not quiet)[""]
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


def _begun_from(
    folder: Path,
    cache: Path | None,
    device: str,
    dtype: str,
    settings: list[str],
    *,
    model: str | None,
    revision: str | None,
    site: list[str] | None,
    target: list[str] | None,
    corpus: str | None,
    tokens: int | None,
) -> "tuple[TrainedSAE, LanguageModel, dict[str, Any]]":
    """Return the SAE that training begins from, its model, and the run, for `as_run`."""
    from saekit.cli.cache import recorded_run
    from saekit.core.config import read_setting
    from saekit.hub.opening import model_of
    from saekit.models.hf import load
    from saekit.training.run import Run
    from saekit.training.starting import settings_of, started

    start = started(folder)
    normalise = dict(map(read_setting, settings)).get("normalise", Run.normalise)
    own = settings_of(start, normalise, read=site or (), write=target or ())
    if cache is not None:
        text = corpus_of(corpus) if corpus is not None else None
        asked = {
            "model": model,
            "corpus": text,
            "site": own["pair"]["read"],
            "target": own["pair"]["write"],
            "fold": False,
            "tokens": tokens,
        }
        lm, raw = recorded_run(cache, device, asked, None)
        return start, lm, raw | {k: own[k] for k in ("sae", "start_from")}
    if model is None:
        lm = model_of(start, device, dtype=None if dtype == "auto" else dtype)
    else:
        lm = load(model, revision=revision, dtype=dtype, device=device)
    raw = flags(
        lm,
        model=model or lm.name,
        revision=revision,
        site=own["pair"]["read"],
        target=own["pair"]["write"],
        fold=False,
        corpus=corpus,
        tokens=tokens,
    )
    return start, lm, raw | own


def _resumed(
    folder: Path, cache: Path | None, device: str, settings: list[str]
) -> "tuple[LanguageModel, Run]":
    """Return model and run of a folder, as they were begun.

    Raises:
        FormatError: there is no run, or its model or text are nowhere to be found.
        ConfigError: the run is finished.
    """
    from saekit.cli.cache import recorded_run
    from saekit.core.border import reading
    from saekit.core.lock import claimed
    from saekit.core.registry import missing_explained
    from saekit.models.hf import load
    from saekit.models.model_files import pinned
    from saekit.training import record
    from saekit.training.loop import RUN, begun_with_of

    if not (folder / RUN).exists():
        raise FormatError(f"{folder} holds no run to go on with: it has no {RUN}.")
    if record.is_done(folder):
        with claimed(folder, "saekit train"):  # removes what a writer killed at the end left
            raise ConfigError(f"The run in {folder} is finished: its SAE is in {folder / 'sae'}.")
    found = record.read(folder / RUN)
    made = begun_with_of(found, folder)
    held = cache or _cache_folder(folder)
    raw = found.settings
    with missing_explained(made.get("parts")):
        if held is not None:
            lm, _ = recorded_run(held, device, {}, raw)
        else:
            raw = record.found_again(raw, folder, made)
            with reading(folder, "a run"):
                named = (pinned(raw["revision"], made["model"]), made["model"]["dtype"])
            lm = load(raw["model"], revision=named[0], dtype=named[1], device=device)
        return lm, as_run(raw, lm, settings)


def _cache_folder(folder: Path) -> Path | None:
    """Return the cache of activations that a run reads, None where it reads none."""
    from saekit.core.border import reading
    from saekit.core.files import read_object
    from saekit.training import record
    from saekit.training.loop import RUN

    manifest = folder / record.MANIFEST
    noted = record.read(folder / RUN).begun_with.get("cache_folder")
    with reading(folder, "a run"):
        told = read_object(manifest) if manifest.exists() else {}
        where = noted or (told.get("cache") or {}).get("folder")
        return None if where is None else Path(where)


def start_from(config: Path | None, recipe: str | None) -> dict[str, Any]:
    """Return the run that a file or a name gives, for `as_run`."""
    if config is not None and recipe is not None:
        raise ConfigError("Give --config or --recipe, not both.")
    if recipe is not None:
        from saekit.recipes import get

        return get(recipe).to_dict()
    assert config is not None
    from saekit.core.files import read_settings

    raw = read_settings(config)
    if isinstance(raw, dict):  # the run.json of a run will do
        from saekit.training.record import settings_of

        raw = settings_of(raw, config)
    if not isinstance(raw, dict) or not {"model", "pair", "corpus", "sae"} <= raw.keys():
        raise ConfigError(f"{config} must be an object with model, pair, corpus and sae.")
    check_groups(raw)
    return raw
