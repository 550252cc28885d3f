"""`saekit.fit_dictionary`: a dictionary that is fitted to activations, not trained by gradients."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saekit.activations.harvest import Harvest
from saekit.core import provenance
from saekit.core.errors import ConfigError
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.core.registry import own_parts
from saekit.data.base import Corpus
from saekit.data.open import as_corpus
from saekit.hub import native
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, SiteName, default_site, refuse_edits
from saekit.models.hf import load as load_model
from saekit.saes.base import Scaling
from saekit.training.building import DEFAULT_MODEL, as_run, put, short_digest, with_length
from saekit.training.fitted.base import Acts, Method, registry
from saekit.training.loop import open_harvest
from saekit.training.run import Run
from saekit.training.scaling import fit_scaling

DEFAULT_TOKENS = 1_000_000
# Settings of a run that say which activations there are; all others are of gradients.
READING = ("n_ctx", "bos", "separate_documents", "rule", "revision")
CARD = ("model", "pair", "corpus", "tokens", "seed", "sae", *READING)


def fit_dictionary(  # noqa: PLR0913 - the words of `saekit fit`
    lm: LanguageModel | str | None = None,
    method: Method | str = "pca",
    *,
    site: SiteName | None = None,
    corpus: Corpus | Path | str | Sequence[str] = "packaged",
    tokens: int | None = None,
    d_sae: int | None = None,
    k: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    shown: bool = True,
    **settings: Any,
) -> TrainedSAE:
    """Fit a dictionary to a language model's activations by a procedure without gradients.

    What comes out is an SAE of a known architecture, a `topk` or a `matching_pursuit`, which is
    saved, loaded, evaluated, indexed and exported as a trained one is.

    Args:
        lm: the language model, or its name; None: smollm2-135m.
        method: how (`saekit list fits`), or one with its settings, as ``KMeans(rounds=50)``.
        site: where to read, as "L10.resid_post"; None: the layer a third of the way up, resid_post.
        corpus: text, by name or file as on the command line; or a list of texts.
        tokens: tokens of text that count, 1 or more; None: 1,000,000, or all the text has. A method
            that reads no activations takes none.
        d_sae: latents; None: what suits the method.
        k: latents on per token at most; None: what suits the method.
        seed: decides every draw.
        out: the folder to make; None: nothing is written.
        device: where a model that is named is loaded: auto, cpu or cuda.
        dtype: its number format.
        shown: show progress on stderr.
        settings: of the method, as ``rounds=50``, and of how text is read: `n_ctx`, `bos`, `rule`,
            `separate_documents`, `revision`.

    Returns:
        the dictionary, which takes raw activations of its site.

    Raises:
        ConfigError: a setting is unknown or out of range, the method gives no dictionary of these
            sizes, or `out` is in use.
        DataError: the text is shorter than `tokens`, or activations are not finite.
    """
    model = (
        lm
        if isinstance(lm, LanguageModel)
        else load_model(
            lm or DEFAULT_MODEL, revision=settings.get("revision"), dtype=dtype, device=device
        )
    )
    refuse_edits(model)
    reading = {name: settings.pop(name) for name in READING if name in settings}
    found = with_settings(method, settings)
    where = model.site(default_site(model) if site is None else site)
    raw = {
        "model": model.name,
        "revision": reading.pop("revision", None),
        "corpus": as_corpus(corpus).to_dict(),
        "pair": {"read": [str(where)]},
        "seed": seed,
        **reading,
    }
    run = as_fit(raw, model, found, tokens=tokens, sizes=(d_sae, k), shown=shown)
    return fit_run(run, found, model, None if out is None else Path(out), shown=shown)


def with_settings(method: Method | str, settings: dict[str, Any]) -> Method:
    """Return a method with settings.

    Raises:
        ConfigError: it has no such setting; those of reading are named too.
        UnknownNameError: there is no such method.
    """
    if isinstance(method, Method):
        return type(method).from_dict(method.to_dict() | settings)
    kind = registry.get(method)
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(set(settings) - known):
        raise ConfigError(
            f"`{method}` has no setting `{unknown[0]}`; it has "
            f"{', '.join(sorted(known)) or 'none'}, and {', '.join(READING)} say how text is read."
        )
    return kind.from_dict({"name": method} | settings)


def split_settings(pairs: Sequence[tuple[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings of `--set` as those of reading, and those of the method."""
    reading: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for path, value in pairs:
        put(reading if path.partition(".")[0] in READING else own, path, value)
    return reading, own


def as_fit(
    raw: dict[str, Any],
    lm: LanguageModel,
    method: Method,
    *,
    tokens: int | None,
    sizes: tuple[int | None, int | None],
    shown: bool,
) -> Run:
    """Return what a fit reads, and the sizes of what it makes, as a run that takes no step.

    Args:
        raw: model, text, pair, seed and settings of reading.
        lm: the language model.
        method: how it is fitted.
        tokens: tokens of text that count; None: 1,000,000, or all the text has.
        sizes: latents, and latents on per token; None: what suits the method.
        shown: say on stderr how long the text is, where that decides.

    Raises:
        ConfigError: sizes or settings are refused, or the method reads no tokens and some were
            asked.
        DataError: the text is too short.
    """
    if tokens is not None and not method.reads:
        raise ConfigError(
            f"`{method.name}` is found from no activations; got tokens={tokens}. Leave it out."
        )
    width = lm.width(lm.site(raw["pair"]["read"][0]))
    d_sae, k = sizes
    for name, value in (("tokens", tokens), ("d_sae", d_sae), ("k", k)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ConfigError(f"`{name}` must be a whole number, at least 1; got {value!r}.")
    sae = method.sae(width, d_sae, k).to_dict()
    wanted = (tokens or DEFAULT_TOKENS) if method.reads else 1
    run = as_run({**raw, "sae": sae, "tokens": wanted}, lm, [])
    if not method.reads:
        return run
    return with_length({"": run}, lm, tokens, shown=shown)[""]


def fit_run(
    run: Run, method: Method, lm: LanguageModel, out: Path | None, *, shown: bool = True
) -> TrainedSAE:
    """Fit what `as_fit` described; see `fit_dictionary`.

    Raises: as `fit_dictionary`.
    """
    if out is None:
        return _fitted(run, method, lm, shown=shown)
    with made_whole(out, "saekit fit") as part:
        found = _fitted(run, method, lm, shown=shown)
        native.save(found.sae, found.card, part)
    return dataclasses.replace(found, folder=out)


def default_folder(run: Run, method: Method, lm: LanguageModel) -> Path:
    """Return where a fit goes when no folder is given: those that differ go to different ones."""
    model = run.model.rstrip("/").rsplit("/", 1)[-1]
    made = short_digest(_about(run, method), lm.provenance())
    sizes = [str(run.sae.d_sae), f"k{getattr(run.sae, 'k', 0)}", f"seed{run.seed}"]
    return Path("runs") / "-".join([model, run.pair.label, method.name, *sizes, made])


def _fitted(run: Run, method: Method, lm: LanguageModel, *, shown: bool) -> TrainedSAE:
    model = lm.separated() if run.separate_documents else lm
    harvest = open_harvest(run, model)
    scaling = fit_scaling(harvest, run.sae).x if method.scaled else None
    passes = _Passes(harvest, scaling, run.tokens, f"fit {method.name}", shown)
    found = method.fit(run.sae, Acts(passes.batches, run.sae.d_in, run.tokens), run.seed)
    if scaling is not None:
        found.sae.rescale(scaling, scaling)
    note = f"fitted by `{method.name}`, not trained"
    made = {"fitted": method.to_dict(), "fit_found": found.found, "notes": [note]}
    card = Card(
        model=model.provenance(),
        pair=run.pair,
        rules=harvest.rules,
        corpus=harvest.stream.provenance(),
        n_ctx=run.n_ctx,
        bos=run.bos and model.tokenizer.bos_id is not None,
        tokens=passes.tokens,
        run=_about(run, method),
        provenance=provenance.collect(run.seed) | made | _own(run, method),
    )
    return TrainedSAE(found.sae.eval().to(lm.device), card)


class _Passes:
    """Reads the activations of a run again and again, and counts those of one pass."""

    def __init__(
        self, harvest: Harvest, scaling: Scaling | None, n_tokens: int, title: str, shown: bool
    ):
        self.harvest, self.scaling, self.n_tokens = harvest, scaling, n_tokens
        self.title, self.shown = title, shown
        self.tokens = 0  # of the longest pass

    def batches(self) -> Iterator[Float[Tensor, "_m width"]]:
        """Yield all activations, scaled."""
        done = 0
        bar = Progress(self.title, self.n_tokens, shown=self.shown)
        for acts in self.harvest.batches():
            x = acts.x.float()[: self.n_tokens - done]
            done += len(x)
            self.tokens = max(self.tokens, done)
            bar.add(len(x))
            yield x if self.scaling is None else self.scaling.apply(x)
            if done == self.n_tokens:
                break
        bar.close()


def _about(run: Run, method: Method) -> dict[str, Any]:
    """Return what decides the dictionary, as a card keeps it."""
    raw = run.to_dict()
    return {name: raw[name] for name in CARD} | {"fit": method.to_dict()}


def _own(run: Run, method: Method) -> dict[str, Any]:
    parts = own_parts(_about(run, method))
    return {"parts": parts} if parts else {}
