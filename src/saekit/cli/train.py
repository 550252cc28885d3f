"""`saekit train`: from a model, a site and a text to an SAE."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.terminal.output import emit
from saekit.terminal.run_flags import given, k_setting, over, put, short_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_TOKENS = 10_000_000


Model = Annotated[
    str | None,
    typer.Option(
        help="Hub name, folder, or an embedded model (see: saekit list models). "
        f"[{DEFAULT_MODEL}]"
    ),
]
Revision = Annotated[str | None, typer.Option(help="Hub commit, tag or branch.")]
Site = Annotated[
    list[str] | None,
    typer.Option(
        help="Where to read, as L3.resid_post; L*.resid_post or L0-5.resid_post for several "
        "layers, or repeat. [the layer a third of the way up, resid_post]"
    ),
]
Target = Annotated[
    list[str] | None, typer.Option(help="What to predict, for a transcoder. [what is read]")
]
Fold = Annotated[
    bool, typer.Option("--fold", help="One SAE over all sites: each site of a token is a row.")
]
CorpusWord = Annotated[
    str | None,
    typer.Option(
        help="packaged, stdlib, a file or glob, a hub dataset OWNER/NAME, or shares of several: "
        "'0.7*packaged + 0.3*notes.jsonl'. One text file is cut at blank lines, paragraphs above "
        "16,000 characters at line ends too. [packaged]"
    ),
]
Arch = Annotated[
    str | None, typer.Option(help="Architecture (see: saekit list saes). [topk]")
]
Latents = Annotated[int | None, typer.Option(help="Latents. [8 x the width read]")]
Kept = Annotated[
    float | None, typer.Option(help="Latents kept per token, where the architecture has k.")
]
Tokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens of text that count; with --fold, each site of one. [10,000,000, or all that "
        "the text has where that is less; all that a cache has]"
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over them. [1]")]
Seed = Annotated[int | None, typer.Option(help="Decides initialisation and order. [0]")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, as lr=3e-4 or sae.aux_k=64. Repeatable."),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="Read activations from this folder (see: saekit cache), not a model."),
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="A run.json (or YAML) to start from instead of the flags.")
]
Recipe = Annotated[
    str | None,
    typer.Option(help="A named run to start from (saekit list recipes); flags go over it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="Of the language model: auto, float32 or bfloat16.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


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
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; other flags unused.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make. [runs/MODEL-SITE-ARCH-WIDTH-kK-seedSEED-DIGEST]"),
    ] = None,
    latent_shards: Annotated[
        int, typer.Option(help="Under torchrun: processes over which latents are dealt.")
    ] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a sparse autoencoder.

    Example: saekit train --model EleutherAI/pythia-70m-deduped --site L3.resid_post
    --corpus my_text.jsonl --d-sae 8192 --k 32
    """
    from saekit.cli.cache import recorded_run
    from saekit.core import processes
    from saekit.core.files import read_object
    from saekit.models.hf import load
    from saekit.training.loop import train as train_run

    device = processes.own_device(device)
    if resume is not None:
        lm, run = _resumed(resume, cache, device, settings or [])
        folder = resume
    elif config is not None or recipe is not None:
        asked = given(
            model=model, revision=revision, site=site, target=target, fold=fold or None,
            corpus=corpus, arch=arch, d_sae=d_sae, tokens=tokens, epochs=epochs, seed=seed,
        )  # fmt: skip
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
            text = _corpus(corpus) if corpus is not None else None
            asked = {"model": model, "corpus": text, "site": site, "target": target, "fold": fold}
            lm, raw = recorded_run(cache, device, asked | {"tokens": tokens}, None)
            raw |= made
        else:
            lm = load(model or DEFAULT_MODEL, revision=revision, dtype=dtype, device=device)
            raw = made | flags(
                lm, model=model, revision=revision, site=site, target=target, fold=fold,
                corpus=corpus, tokens=tokens,
            )  # fmt: skip
        run = as_run(raw, lm, k_setting(arch, k) + (settings or []))
        run = with_length({"": run}, lm, tokens, settings, shown=not quiet)[""]
        folder = out or default_folder(run, lm)
    with processes.session(lm.device):
        sae = train_run(
            run, lm, folder,
            resume=resume is not None, shown=not quiet, latent_shards=latent_shards,
        )  # fmt: skip
        if not processes.first():
            return
    manifest = read_object(folder / "manifest.json")
    record = {"run": str(folder), "sae": str(sae), "seconds": manifest["seconds"]}
    lines = [f"SAE      {sae}", f"log      {folder / 'log.jsonl'}"]
    lines.append(f"next     saekit eval {folder}")
    emit(record, as_json=as_json, lines=lines)
    exit_in_part([manifest])


def exit_in_part(manifests: "Iterable[dict[str, Any]]") -> None:
    """End with exit code 3 where the text of a run ended before the tokens asked."""
    if any("text_ended" in manifest for manifest in manifests):
        raise typer.Exit(3)


def with_length(
    runs: "dict[str, Run]", lm: "LanguageModel", tokens: int | None, settings: list[str] | None,
    *, shown: bool,
) -> "dict[str, Run]":  # fmt: skip
    """Return runs of one text; where no number of tokens was asked, all the text has at most."""
    from saekit.training.length import fit_tokens

    asked = tokens is not None or any(
        s.partition("=")[0].strip() == "tokens" for s in settings or []
    )
    return runs if asked else fit_tokens(runs, lm, shown=shown)


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
    from saekit.core.files import read_json
    from saekit.training import record
    from saekit.training.loop import RUN

    manifest = folder / record.MANIFEST
    noted = record.read(folder / RUN).begun_with.get("cache_folder")
    old = (read_json(manifest).get("cache") or {}).get("folder") if manifest.exists() else None
    where = noted or old
    return None if where is None else Path(where)


def made_of(
    arch: str, d_sae: int | None, epochs: int | None, seed: int | None
) -> dict[str, Any]:
    """Return what the everyday flags say of the SAE, for `as_run`."""
    sae = {"name": arch} | ({"d_sae": d_sae} if d_sae is not None else {})
    return {"sae": sae, "epochs": 1 if epochs is None else epochs, "seed": seed or 0}


def fit_width(raw: dict[str, Any], lm: "LanguageModel") -> None:
    """Turn a recipe's latents a dimension into latents, where no number of them was given."""
    ratio = raw.pop("latents_per_width", None)
    if ratio is not None:
        raw["sae"].setdefault("d_sae", round(ratio * lm.d_model))


def flags(  # noqa: PLR0913 - an option each
    lm: "LanguageModel",
    *,
    model: str | None,
    revision: str | None,
    site: list[str] | None,
    target: list[str] | None,
    fold: bool,
    corpus: str | None,
    tokens: int | None,
) -> dict[str, Any]:
    """Return what the everyday flags say of model and text, for `as_run`."""
    from saekit.models.base import default_site

    read = site or [default_site(lm)]
    return {
        "model": model or DEFAULT_MODEL,
        "revision": revision,
        "pair": {"read": read, "write": target or [], "fold": fold},
        "corpus": _corpus(corpus or "packaged"),
        "tokens": DEFAULT_TOKENS if tokens is None else tokens,
    }


def as_run(raw: dict[str, Any], lm: "LanguageModel", settings: list[str]) -> "Run":
    """Return the run a dict describes, with what is left out fitted to model and architecture.

    Widths of the SAE are the model's; an architecture that codes sites jointly gets the number
    that is read, one that codes windows half a row, and one around another a topk.

    Raises:
        ConfigError: a setting is missing, unknown or of another kind than it must be.
    """
    try:
        return _as_run(raw, lm, settings)
    except SaekitError:
        raise
    except Exception as error:  # settings may be anything, where nothing was expected
        raise ConfigError(
            f"The settings describe no run: {type(error).__name__}: {error}. Compare them with "
            f"the run.json of a run, or with `saekit train --help`."
        ) from error


def _as_run(raw: dict[str, Any], lm: "LanguageModel", settings: list[str]) -> "Run":
    from saekit.activations.pairs import Pair
    from saekit.core.config import field_types, override, read_setting
    from saekit.models.site_patterns import expand_sites
    from saekit.saes.base import registry
    from saekit.training.record import absolute
    from saekit.training.run import Run

    raw = absolute(raw)
    check_groups(raw)
    given = dict(read_setting(s) for s in settings)
    sites = {side: expand_sites(raw["pair"].get(side) or (), lm) for side in ("read", "write")}
    raw = {**raw, "pair": {**raw["pair"], **sites}}
    d_in, d_out = Pair.from_dict(raw["pair"]).widths(lm)
    sae = {"d_in": d_in, "d_out": d_out, "d_sae": 8 * d_in} | raw["sae"]
    for path, value in given.items():
        if path.startswith("sae."):
            put(sae, path.removeprefix("sae."), value)
    if not isinstance(sae.get("name", ""), str):
        raise ConfigError(f"`sae.name` must be text; got {sae['name']!r:.80}.")
    if "name" in sae and "inner" in field_types(registry.get(sae["name"])):
        sizes = {key: sae[key] for key in ("d_in", "d_out", "d_sae")}
        sae["inner"] = {"name": "topk"} | sizes | sae.get("inner", {})
    event = registry.get(sae["name"]).event if "name" in sae else ()
    if "site" in event:
        sae = {"n_sites": len(raw["pair"]["read"])} | sae
    if "seq" in event and not {"window", "pair.window"} & {*raw["pair"], *given}:
        n_ctx = given.get("n_ctx", raw.get("n_ctx"))
        half = ((n_ctx if isinstance(n_ctx, int) else Run.n_ctx) - 1) // 2  # BOS is in no window
        settings = [*settings, f"pair.window={max(half, 1)}"]
    early = [s for s in settings if s.startswith("pair.")]
    pair = override(Pair.from_dict(raw["pair"]), [s.removeprefix("pair.") for s in early])
    return override(Run.from_dict({**raw, "pair": pair.to_dict(), "sae": sae}), settings)


def default_folder(run: "Run", lm: "LanguageModel") -> Path:
    """Return where a run goes when no folder is given: runs that differ go to different ones."""
    model = run.model.rstrip("/").rsplit("/", 1)[-1]
    site = run.pair.label.replace(" -> ", "-to-").replace("+", "-")
    if len(run.pair.read) > 2:  # a name of thirty sites is too long for a folder
        site = f"{run.pair.read[0]}-to-{run.pair.read[-1]}"
    parts = [model, site, run.sae.name, str(run.sae.d_sae)]
    if isinstance(k := getattr(run.sae, "k", None), int | float):
        parts.append(f"k{k:g}")
    parts.append(f"seed{run.seed}")
    return Path("runs") / "-".join([*parts, short_digest(run.to_dict(), lm.provenance())])


def check_groups(raw: dict[str, Any]) -> None:
    """Refuse the description of a run whose groups are not what a run has.

    Raises:
        ConfigError: a group is no object, or a site is no text.
    """
    for key in ("pair", "corpus", "sae"):
        if not isinstance(raw.get(key), dict):
            raise ConfigError(
                f"`{key}` of a run must be an object with settings of its own; got "
                f"{raw.get(key)!r:.80}."
            )
    for side in ("read", "write"):
        sites = raw["pair"].get(side) or []
        if not isinstance(sites, list | tuple) or not all(isinstance(s, str) for s in sites):
            raise ConfigError(
                f'`pair.{side}` must be a list of sites, as ["L3.resid_post"]; got {sites!r:.80}.'
            )


def check_flags(arch: str, tokens: int | None, epochs: int | None) -> None:
    """Refuse what can be refused before a model is loaded."""
    from saekit.saes.base import registry

    registry.get(arch)
    for name, value in (("--tokens", tokens), ("--epochs", epochs)):
        if value is not None and value < 1:
            raise ConfigError(f"`{name}` must be at least 1; got {value}.")


def _corpus(text: str) -> dict[str, Any]:
    from saekit.data.open import open_corpus

    return open_corpus(text).to_dict()


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
