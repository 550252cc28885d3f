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
from saekit.training.train import Sites, Text, names_of

DEFAULT_TOKENS = 1_000_000


def write_cache(  # noqa: PLR0913 - the words of `saekit cache write`
    lm: LanguageModel | str | None = None,
    *,
    site: Sites | None = None,
    corpus: Text = "packaged",
    tokens: int | None = None,
    precision: str = "bfloat16",
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
        corpus: text, by name or file; or a list of texts.
        tokens: tokens to write, counting those that the token rule keeps at every site; None:
            1,000,000, or as many as the cache to go on with has.
        precision: float32, bfloat16, float16, float8 or int8w.
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
    if resume:
        if out is None:
            raise ConfigError("Name the folder of the cache to go on with: out=.")
        folder = Path(out)
        store, spec, model = _begun(folder, lm, device)
        wanted = tokens or store.n_kept
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
            "corpus": as_corpus(corpus).to_dict(),
            "precision": precision,
        }
        for path, value in settings.items():
            put(raw, path, value)
        spec = Caching.from_dict(record.absolute(raw))
        folder, wanted = _default_folder(spec, model) if out is None else Path(out), tokens
        wanted = DEFAULT_TOKENS if tokens is None else tokens
    with StopRequest() as stop:
        return caching.write(
            spec, model, folder, tokens=wanted, stopped=lambda: stop.asked, shown=shown
        )


def repair_cache(
    folder: Path | str, lm: LanguageModel | None = None, *, device: str = "auto", shown: bool = True
) -> list[str]:
    """Write the damaged shards of a cache again, and only them; return their files.

    Args:
        folder: of the cache.
        lm: its language model; None: it is loaded.
        device: where to load it.
        shown: show progress on stderr.

    Raises:
        FormatError: there is no cache, or its model or text are nowhere to be found.
        ConfigError: model or text are not those of the cache, or it was imported.
    """
    _, _, model = _begun(Path(folder), lm, device)
    return caching.repair(model, Path(folder), shown=shown)


def _begun(
    folder: Path, lm: LanguageModel | str | None, device: str
) -> tuple[Store, Caching, LanguageModel]:
    """Return a cache that was begun, its settings with places as they are now, and its model."""
    store = Store.open(folder)
    where = record.found_again(store.manifest["config"], folder, store.manifest)
    spec = Caching.from_dict(where)
    if isinstance(lm, LanguageModel):
        return store, spec, lm
    begun_with = store.manifest["model"]
    revision = pinned(spec.revision, begun_with)
    named = lm or spec.model
    return (
        store,
        spec,
        load_model(named, revision=revision, dtype=begun_with["dtype"], device=device),
    )


def _default_folder(spec: Caching, model: LanguageModel) -> Path:
    told = short_digest(spec.to_dict(), model.provenance())
    name = spec.model.rstrip("/").rsplit("/", 1)[-1]
    return Path("caches") / f"{name}-{'-'.join(map(str, spec.sites))}-{told}"
