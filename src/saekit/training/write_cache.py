"""`saekit.write_cache`: the activations of a text, written once to train on many times."""

from pathlib import Path
from typing import Any

from saekit.activations.cache import caching
from saekit.activations.cache.caching import Caching
from saekit.activations.cache.store import Store
from saekit.core.errors import ConfigError
from saekit.data.open import as_corpus
from saekit.models.base import LanguageModel, default_site
from saekit.models.hf import load as load_model
from saekit.models.model_files import pinned
from saekit.training import record
from saekit.training.building import DEFAULT_MODEL, put, short_digest
from saekit.training.signals import StopRequest
from saekit.training.sources import check_begun, given
from saekit.training.train import Sites, Text
from saekit.training.words import check_words, names_of, place_of

DEFAULT_TOKENS = 1_000_000


def write_cache(  # noqa: PLR0913 - the words of `saekit cache write`
    lm: LanguageModel | str | None = None,
    *,
    site: Sites | None = None,
    corpus: Text | None = None,
    tokens: int | None = None,
    precision: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    shown: bool = True,
    **settings: Any,
) -> Store:
    """Run a language model over a text and write its activations to disk.

    Args:
        lm: the language model, or its name; None: smollm2-135m, or that of the cache to go on with.
        site: what to store, as "L10.resid_post", or several; None: the layer a third of the way up,
            resid_post.
        corpus: text, by name or file; or a list of texts; None: packaged.
        tokens: tokens to write, counting those that the token rule keeps at every site; None:
            1,000,000, or as many as the cache to go on with has.
        precision: float32, bfloat16, float16, float8 or int8w; None: bfloat16.
        out: the folder to make; None: one under ``caches``.
        resume: go on with the cache in `out`, with the settings it was begun with.
        device: where a model that is named is loaded: auto, cpu or cuda.
        dtype: its number format.
        shown: show the size before, and progress.
        settings: any other setting of `Caching`, as ``n_ctx=64``.

    Returns:
        the store, whose `folder` goes to ``train(cache=...)``.

    Raises:
        ConfigError: the folder holds something else, or a setting is unknown.
        DataError: the text has fewer tokens (what there is was written), or the precision cannot
            hold an activation.
        Interrupted: Ctrl-C or SIGTERM came; what was read is written.
        ResourceError: the disk is too small.
    """
    words = given(site=names_of(site), corpus=corpus, tokens=tokens, precision=precision)
    if twice := {"sites", *words} & {*settings}:
        raise ConfigError(f"`{min(twice)}` is a word of its own. Say it once: site=, precision=.")
    check_words(lm, given(tokens=tokens), settings, device=device, dtype=dtype)
    folder = None if out is None else place_of("out", out)
    if resume:
        if folder is None:
            raise ConfigError("Name the folder of the cache to go on with: out=.")
        if more := sorted({*words, *settings} - {"tokens"}):
            raise ConfigError(
                f"`{more[0]}` is that of the cache in {folder}, which goes on as it was begun. "
                f"Leave it out; `tokens` may be said."
            )
        store, spec, model = _begun(folder, lm, device, dtype)
        wanted = store.n_kept if tokens is None else tokens
    else:
        named = lm or DEFAULT_MODEL
        revision = settings.get("revision")
        model = (
            load_model(named, revision=revision, dtype=dtype, device=device)
            if isinstance(named, str)
            else named
        )
        raw: dict[str, Any] = {
            "model": named if isinstance(named, str) else model.name,
            "sites": names_of(site) or [default_site(model)],
            "corpus": as_corpus("packaged" if corpus is None else corpus).to_dict(),
            "precision": precision or "bfloat16",
        }
        for path, value in settings.items():
            put(raw, path, value)
        spec = Caching.from_dict(record.absolute(raw))
        folder = folder or _default_folder(spec, model)
        wanted = DEFAULT_TOKENS if tokens is None else tokens
    with StopRequest() as stop:
        return caching.write(
            spec, model, folder, tokens=wanted, stopped=lambda: stop.asked, shown=shown
        )


def repair_cache(
    folder: Store | Path | str,
    lm: LanguageModel | None = None,
    *,
    device: str = "auto",
    shown: bool = True,
) -> list[str]:
    """Write the damaged shards of a cache again, and only them; return their files.

    Args:
        folder: of the cache, or what `write_cache` returned.
        lm: its language model; None: it is loaded.
        device: where to load it.
        shown: show progress on stderr.

    Raises:
        FormatError: there is no cache, or its model or text are nowhere to be found.
        ConfigError: model or text are not those of the cache, or it was imported.
    """
    place = folder.folder if isinstance(folder, Store) else place_of("folder", folder)
    _, _, model = _begun(place, lm, device, "auto")
    return caching.repair(model, place, shown=shown)


def _begun(
    folder: Path, lm: LanguageModel | str | None, device: str, dtype: str
) -> tuple[Store, Caching, LanguageModel]:
    """Return a cache that was begun, its settings with places as they are now, and its model."""
    store = Store.open(folder)
    where = record.found_again(store.manifest["config"], folder, store.manifest)
    spec, begun_with = Caching.from_dict(where), store.manifest["model"]
    check_begun(folder, spec.model, begun_with["dtype"], lm, dtype)
    if isinstance(lm, LanguageModel):
        return store, spec, lm
    revision, had = pinned(spec.revision, begun_with), begun_with["dtype"]
    return store, spec, load_model(spec.model, revision=revision, dtype=had, device=device)


def _default_folder(spec: Caching, model: LanguageModel) -> Path:
    told = short_digest(spec.to_dict(), model.provenance())
    name = spec.model.rstrip("/").rsplit("/", 1)[-1]
    return Path("caches") / f"{name}-{'-'.join(map(str, spec.sites))}-{told}"
