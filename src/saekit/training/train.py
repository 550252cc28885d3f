"""`saekit.train`: one call from a model, a site and a text to a trained SAE."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.cache.store import Store
from saekit.core.config import read_setting
from saekit.core.errors import ConfigError
from saekit.core.files import read_object
from saekit.data.base import Corpus
from saekit.data.open import as_corpus
from saekit.hub.card import Card
from saekit.hub.native import load
from saekit.hub.opening import model_of
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel, SiteName, default_site
from saekit.models.hf import load as load_model
from saekit.saes.base import SAEConfig, Unsized
from saekit.training import record
from saekit.training.building import (
    DEFAULT_MODEL,
    DEFAULT_TOKENS,
    as_run,
    default_folder,
    fit_width,
    k_setting,
    put,
    settings_of_sae,
    with_length,
)
from saekit.training.loop import train as train_run
from saekit.training.run import Run
from saekit.training.sources import (
    check_model,
    check_start,
    given,
    of_cache,
    open_cache,
    over,
    read_run,
    resumed,
)
from saekit.training.starting import settings_of, started
from saekit.training.words import SETS, check_words, names_of, place_of

Sites = SiteName | Sequence[SiteName]
Text = Corpus | Path | str | Sequence[str]
Architecture = SAEConfig | Unsized | str


def train(  # noqa: PLR0913 - the words of `saekit train`
    lm: LanguageModel | str | None = None,
    *,
    site: Sites | None = None,
    target: Sites | None = None,
    fold: bool = False,
    sae: Architecture | None = None,
    corpus: Text | None = None,
    tokens: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    start_from: TrainedSAE | Path | str | None = None,
    cache: Store | Path | str | None = None,
    out: Path | str | None = None,
    run: Run | Path | str | None = None,
    resume: bool = False,
    latent_shards: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    shown: bool = True,
    **settings: Any,
) -> TrainedSAE:
    """Train an SAE on a language model's activations, and leave it in a folder.

    Args:
        lm: the language model, or its name; None: smollm2-135m, or that of `start_from`, `cache`,
            `run` or the run to go on with.
        site: where to read, as "L10.resid_post"; several for a crosscoder or, with `fold`, for one
            SAE over them; None: the layer a third of the way up, resid_post.
        target: what to predict, for a transcoder; None: what is read.
        fold: each site of a token is a row of its own.
        sae: the architecture with its settings, as ``TopK(k=32, expansion=8)``, or its name.
            Widths are filled in; without `d_sae` or `expansion` there are 8 latents a dimension.
            None: topk.
        corpus: text, by name or file as on the command line; or a list of texts; None: packaged.
        tokens: tokens of text that count, 1 or more; None: 10,000,000, or all the text has.
        epochs: passes over them; None: 1.
        seed: decides initialisation and order; None: 0.
        start_from: an SAE, or the folder of one, whose training goes on from its weights; it has
            its own architecture and sizes, and its site and rows unless others are named.
        cache: a folder of activations that `write_cache` made, or what it returned, read in place
            of running a model; `lm` is left out.
        out: the folder to make; None: one under ``runs`` whose name tells settings apart.
        run: a whole description: of a recipe (`saekit.recipes.get`), or the run.json of a run. What
            else is given replaces single settings of it; `sae`, `target` and `fold` are its own. Of
            one that began from an SAE, give that as `start_from`.
        resume: go on with the run in `out`, with the settings it was begun with; what else is
            given must be the same. A run that is finished is returned.
        latent_shards: processes over which latents are dealt; see docs/scale.md.
        device: where a model that is named is loaded: auto, cpu or cuda.
        dtype: its number format: float32, bfloat16, or auto, which is bfloat16 if the hardware is
            fast at it.
        shown: show progress on stderr.
        settings: any other setting of `Run`, as ``lr=3e-4`` or ``n_ctx=256``; those of groups with
            a dot, as ``**{"optimiser.beta1": 0.9}``.

    Returns:
        the finished SAE, with the folder it is in.

    Raises:
        ConfigError: a setting is unknown or out of range, or `out` is in use.
        DataError: the text is shorter than `tokens`, or activations are not finite.
    """
    if resume and out is None:
        raise ConfigError("Name the folder of the run to go on with: out=.")
    words = given(
        site=names_of(site),
        target=names_of(target),
        fold=fold or None,
        sae=sae,
        corpus=corpus,
        tokens=tokens,
        epochs=epochs,
        seed=seed,
        run=run,
        start=None if start_from is None else _start_of(start_from),
    )
    store = cache.folder if isinstance(cache, Store) else cache
    held = None if store is None else place_of("cache", store)
    check_words(lm, words, settings, cached=held is not None, device=device, dtype=dtype)
    folder = None if out is None else place_of("out", out)
    start = words.get("start")
    if resume and run is None and folder is not None:
        if record.is_done(folder) and not words | settings:
            return _finished(folder)
        model, begun = resumed(folder, held, lm, device=device, dtype=dtype, finished=True)
        made = as_run(_said_again(begun.to_dict(), words, settings), model, [])
    else:
        opened = None if held is None else open_cache(held, device)
        model, raw = described(lm, words, settings, opened, device=device, dtype=dtype)
        made = as_run(raw, model, [])
        if run is None:
            made = with_length({"": made}, model, tokens, shown=shown)[""]
    folder = folder or default_folder(made, model)
    train_run(
        made, model, folder, resume=resume, shown=shown, latent_shards=latent_shards, start=start
    )
    return _finished(folder)


def _start_of(start_from: TrainedSAE | Path | str) -> TrainedSAE:
    if isinstance(start_from, TrainedSAE):
        return started(start_from)
    return started(place_of("start_from", start_from))


def _finished(folder: Path) -> TrainedSAE:
    """Return the SAE of a run; of one that several sites share, for the first of them."""
    pair = Card.from_dict(read_object(folder / "sae" / "card.json")).pair
    found = load(folder / "sae", site=str(pair.reads[0]) if pair.shares else None)
    return dataclasses.replace(found, folder=folder)


def _said_again(
    raw: dict[str, Any], words: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return a run that was begun with what is said of it now, which may be another."""
    raw = {**raw, "pair": dict(raw["pair"]), "sae": dict(raw["sae"])}
    said = {SETS[word]: value for word, value in words.items() if word in SETS}
    if "corpus" in words:
        said["corpus"] = as_corpus(words["corpus"]).to_dict()
    if "sae" in words:
        own = settings_of_sae(words["sae"])
        if own["name"] != raw["sae"]["name"]:
            raw["sae"] = {}
        if "expansion" in own:
            raw["sae"].pop("d_sae", None)
        raw["sae"] |= own
    if "start" in words:
        said["start_from"] = weights_digest(words["start"].sae)
    for path, value in (said | settings).items():
        put(raw, path, value)
    return raw


def described(
    lm: LanguageModel | str | None,
    words: dict[str, Any],
    settings: dict[str, Any],
    held: RecordedModel | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
) -> tuple[LanguageModel, dict[str, Any]]:
    """Return the language model and the run that words of `train` describe, for `as_run`.

    Args:
        lm: the model, or its name; None: that of the run, of the SAE to begin from, or the default.
        words: those that were given, of `site`, `target`, `fold`, `sae`, `d_sae`, `k`, `corpus`,
            `tokens`, `epochs`, `seed`, `start` (an SAE) and `run`.
        settings: other settings of `Run`, by their dotted paths.
        held: a cache of activations that is read in place of the model.
        device: where a model that is named is loaded.
        dtype: its number format.

    Raises:
        ConfigError: two of them contradict each other.
    """
    check_words(lm, words, settings, cached=held is not None, device=device, dtype=dtype)
    if held is not None and isinstance(lm, LanguageModel):
        raise ConfigError(
            f"A cache is read in place of a model that runs, and says which model it is of. Leave "
            f"`lm` out, or `cache`; got {lm!r:.80} too."
        )
    open_as = {"revision": settings.get("revision"), "dtype": dtype, "device": device}
    start = words.get("start")
    if "run" in words:
        if "sae.d_sae" in settings:  # inside of an SAE around another too, as the word sets it
            words = words | {"d_sae": settings["sae.d_sae"]}
            settings = {path: v for path, v in settings.items() if path != "sae.d_sae"}
        model, raw = _over(lm, words, held, open_as)
    elif start is not None:
        model, raw = _begun_from(start, lm, words, settings.get("normalise"), (held, open_as))
    else:
        model = held or _opened(lm or DEFAULT_MODEL, open_as)
        raw = _read_from(model, words, held, lm if isinstance(lm, str) else None)
        raw["sae"] = settings_of_sae(words.get("sae")) | given(d_sae=words.get("d_sae"))
    if "run" not in words:
        raw |= {"epochs": words.get("epochs", 1), "seed": words.get("seed", 0)}
    more = map(read_setting, k_setting(raw["sae"].get("name", "topk"), words.get("k")))
    for path, value in [*more, *settings.items()]:
        put(raw, path, value)
    return model, raw


def _over(
    lm: LanguageModel | str | None,
    words: dict[str, Any],
    held: RecordedModel | None,
    open_as: dict[str, Any],
) -> tuple[LanguageModel, dict[str, Any]]:
    """Return the model and the run of a whole description, with words over it."""
    words = words | given(revision=open_as["revision"])
    run = words.pop("run")
    raw = run.to_dict() if isinstance(run, Run) else read_run(Path(run))
    if isinstance(lm, LanguageModel):
        check_model(raw["model"], lm)
    if (start := words.pop("start", None)) is not None:
        check_start(raw, start)
    if "corpus" in words:
        words = words | {"corpus": as_corpus(words["corpus"]).to_dict()}
    raw = over(raw, words | given(model=lm if isinstance(lm, str) else None))
    model = held or _opened(lm or raw["model"], open_as | {"revision": raw.get("revision")})
    fit_width(raw, model)
    return model, raw


def _begun_from(
    start: TrainedSAE,
    lm: LanguageModel | str | None,
    words: dict[str, Any],
    normalise: Any,
    place: tuple[RecordedModel | None, dict[str, Any]],
) -> tuple[LanguageModel, dict[str, Any]]:
    """Return the model and the run that goes on from an SAE's weights."""
    held, open_as = place
    if wrong := [name for name in ("sae", "d_sae", "fold") if name in words]:
        what = "fold" if wrong == ["fold"] else repr(words[wrong[0]])
        raise ConfigError(
            f"Architecture, sizes and folding are those of the SAE to begin from; got {what} too. "
            f"Leave it out."
        )
    own = settings_of(
        start, normalise or Run.normalise, read=words.get("site", ()), write=words.get("target", ())
    )
    if held is not None:
        model: LanguageModel = held
    elif lm is None:
        dtype = None if open_as["dtype"] == "auto" else open_as["dtype"]
        model = model_of(start, open_as["device"], dtype=dtype)
    else:
        model = _opened(lm, open_as)
    sites = {"site": own["pair"]["read"], "target": own["pair"]["write"]}
    raw = _read_from(model, words | sites, held, lm if isinstance(lm, str) else None)
    if held is not None:  # the rows are those of the cache
        own = {key: own[key] for key in ("sae", "start_from")}
    return model, raw | own


def _read_from(
    model: LanguageModel, words: dict[str, Any], held: RecordedModel | None, name: str | None
) -> dict[str, Any]:
    """Return what words say of model, sites and text; `name` is the model's, if it was named."""
    text = as_corpus(words["corpus"]).to_dict() if "corpus" in words else None
    fold, tokens = words.get("fold", False), words.get("tokens")
    read, write = words.get("site"), words.get("target")
    if held is not None:
        return of_cache(
            held, name=name, corpus=text, site=read, target=write, fold=fold, tokens=tokens
        )
    return {
        "model": name or model.name,
        "revision": None,
        "pair": {"read": read or [default_site(model)], "write": write or [], "fold": fold},
        "corpus": as_corpus("packaged").to_dict() if text is None else text,
        "tokens": DEFAULT_TOKENS if tokens is None else tokens,
    }


def _opened(lm: LanguageModel | str, open_as: dict[str, Any]) -> LanguageModel:
    return lm if isinstance(lm, LanguageModel) else load_model(lm, **open_as)
