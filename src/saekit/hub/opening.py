"""Open an SAE for use: its weights, its language model, a text, and a record of what each is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from saekit.activations.harvest import Harvest
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.errors import ConfigError, FormatError, ResourceError, UnknownNameError
from saekit.data.base import Corpus
from saekit.data.held_out import kept_from
from saekit.data.open import as_corpus
from saekit.data.tokenise import TokenStream
from saekit.hub.card import Card
from saekit.hub.formats.base import FormatHints
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, check_model
from saekit.models.hf import load as load_model
from saekit.models.model_files import pinned
from saekit.models.short_names import full_name
from saekit.models.sites import UNKNOWN

AnySAE = TrainedSAE | Path | str
WHAT = "An SAE is one that saekit.load or saekit.train returned, or the folder it is in"
N_CTX = 128  # tokens of a row where the files do not say


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How the user wants an SAE read and run; what is not set is as its files say.

    Args:
        hints: what the files leave out.
        format: the format of the files, where they fit several.
        model: the language model to run it on. Another one than its own is allowed: what it was
            trained on and what it was measured on are both recorded.
        dtype: of the language model: auto, float32 or bfloat16; None: that of training.
        n_ctx: tokens of a row; 0: that of training.
        bos: whether rows begin with BOS; None: as in training, or where that is not known as the
            model's tokenizer does by default.
        corpus: text; None: that of training.
        device: where the model goes: auto, cpu or cuda.
        processing: what is done to the model's weights, "transformer_lens" or nothing; None: as in
            training, as far as the files say.
    """

    hints: FormatHints = FormatHints()
    format: str | None = None
    model: str | None = None
    dtype: str | None = None
    n_ctx: int = 0
    bos: bool | None = None
    corpus: str | None = None
    device: str = "auto"
    processing: str | None = None


class OpenSAE(NamedTuple):
    """An SAE and all that is needed to run it."""

    loaded: TrainedSAE  # the card says all: rules, n_ctx, bos
    lm: LanguageModel
    text: Corpus

    @property
    def notes(self) -> list[str]:
        """What a reader of its numbers must know."""
        return notes_of(self.loaded.card)


def open_sae(
    folder: Path,
    use: OpenOptions | None = None,
    *,
    site: str | None = None,
    scaled: bool = False,
    prepare: Callable[[TrainedSAE], TrainedSAE] | None = None,
    place: Callable[[TrainedSAE, LanguageModel], TrainedSAE] | None = None,
    models: dict[str, LanguageModel] | None = None,
) -> OpenSAE:
    """Return an SAE with its language model, a text, and a card that has no gaps.

    Args:
        folder: of a run, or of an SAE in any format.
        use: how it is to be read and run.
        site: whose activations it will be given; see `saekit.hub.native.load`.
        scaled: the weights as trained, for all sites that share it.
        prepare: changes what was read before a model is loaded, or refuses it.
        place: fills in sites where the files do not say them, knowing the model.
        models: see `model_of`.

    Raises:
        ConfigError: neither the files nor `use` say the model, the site or the text; or they
            contradict each other.
        FormatError: there is no SAE, or the model of that name is now another one.
    """
    use = use or OpenOptions()
    loaded = load(folder, site=site, scaled=scaled, format=use.format, hints=use.hints)
    loaded.card.check_model()
    if prepare is not None:
        loaded = prepare(loaded)
    text = text_of(loaded, use.corpus)
    lm = model_of(loaded, use.device, use.model, use.dtype, use.processing, models=models)
    if place is not None:
        loaded = place(loaded, lm)
    return OpenSAE(complete(loaded, lm, text, use), lm, text)


def model_of(
    loaded: TrainedSAE,
    device: str,
    name: str | None = None,
    dtype: str | None = None,
    processing: str | None = None,
    *,
    models: dict[str, LanguageModel] | None = None,
) -> LanguageModel:
    """Return the language model an SAE was trained on, at the precision it was trained at.

    Args:
        loaded: the SAE.
        device: where the model goes.
        name: the model to load instead, where the files do not say or another one is wanted.
        dtype: its precision, if not that of training.
        processing: what is done to its weights (see `saekit.load_model`), if not as in training.
        models: holds what was loaded before, so that SAEs of one model share it; it is added to.

    Raises:
        ConfigError: neither the files nor `name` say the model.
        FormatError: no name was given, and the model of the recorded name is now another one.
    """
    made_from, run = loaded.card.model, loaded.card.run
    wanted = name or run.get("model", made_from["name"])
    if wanted == "unknown":
        raise ConfigError("The SAE's files do not say the language model. Name it with --model.")
    own = wanted == run.get("model", made_from["name"])
    before = "auto" if made_from["dtype"] == "unknown" else made_from["dtype"]
    # Of its own model the commit that was recorded, for a branch may have moved on since.
    commit = pinned(run.get("revision"), made_from) if own else None
    settings: dict[str, Any] = {
        "revision": commit,
        "dtype": dtype or before,
        "device": device,
        "processing": processing or (made_from.get("processing") if own else None),
        "quantisation": made_from.get("quantisation") if own else None,
    }
    apart = bool(made_from.get("separate_documents"))
    held, key = {} if models is None else models, repr((wanted, settings, apart))
    try:
        lm = held[key] if key in held else load_model(wanted, **settings)
    except (UnknownNameError, ResourceError) as error:
        if name is not None:
            raise
        raise type(error)(
            f"The SAE's files name the model `{wanted}`. {error} Another can be named with --model."
        ) from error
    if name is None and made_from["revision"] not in (None, lm.revision):
        raise FormatError(
            f"The SAE was trained on {wanted} at revision {made_from['revision']}; what loads "
            f"under that name now is {lm.revision}. Point the name at the right model, or name the "
            f"one to run it on: --model."
        )
    if key not in held:
        held[key] = lm.separated() if apart else lm
    return held[key]


def opened(
    sae: TrainedSAE | Path | str,
    lm: LanguageModel | None = None,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    *,
    models: dict[str, LanguageModel] | None = None,
) -> OpenSAE:
    """Return an SAE from memory or a folder, with all that is needed to run it filled in.

    Args:
        sae: the SAE, or the folder it is in.
        lm: its language model; None: the one that its card names.
        corpus: text (see `text_of`); None: that of training.
        site: which site, where several share the SAE in a folder.
        models: see `model_of`.

    Raises: as `open_sae`.
    """
    (sae,) = each_of([sae])
    if lm is not None:
        check_model(lm)
    loaded = sae if isinstance(sae, TrainedSAE) else load(sae, site=site)
    loaded.card.check_model()
    model = lm or model_of(loaded, "auto", models=models)
    text = text_of(loaded, corpus)
    return OpenSAE(complete(loaded, model, text), model, text)


def ready(
    loaded: TrainedSAE, use: OpenOptions, lm: LanguageModel | None = None
) -> tuple[TrainedSAE, LanguageModel]:
    """Return an SAE with its language model, to be run on a text of the user's own.

    No corpus is read for it: see `TrainedSAE.ruled`.

    Args:
        loaded: the SAE.
        use: how it is to be run.
        lm: its language model; None: the one that its card or `use` names.

    Raises: as `open_sae`.
    """
    if UNKNOWN in loaded.card.pair.sites:
        raise ConfigError(_no_site(loaded.card))
    model = lm or model_of(loaded, use.device, use.model, use.dtype, use.processing)
    found = loaded.ruled(model)
    if notes := _about_model(found.card, model):
        said = found.card.provenance
        said = said | {"notes": list(dict.fromkeys([*notes, *notes_of(found.card)]))}
        found = replace(found, card=replace(found.card, provenance=said))
    return found, model


def _no_site(card: Card) -> str:
    return (
        f"The SAE's files do not say which site it is of ({card.pair.label}). Name it: site=, on a "
        f"command line --site; of a transcoder both: read= and write=, --read and --write."
    )


def each_of(saes: AnySAE | Iterable[AnySAE]) -> list[AnySAE]:
    """Return SAEs, or one, as a list.

    Raises:
        ConfigError: one of them is no SAE.
    """
    found: list[Any] = [saes]
    if not isinstance(saes, AnySAE) and isinstance(saes, Iterable):
        found = list(saes)
    for one in found:
        if not isinstance(one, AnySAE):
            raise ConfigError(f"{WHAT}; got {one!r:.80} ({type(one).__name__}).")
    return found


def text_of(
    loaded: TrainedSAE, corpus: Corpus | Path | str | Sequence[str] | None = None
) -> Corpus:
    """Return a text for an SAE: one that is named, or the one that it was trained on.

    Another text is split as that of training was, whatever its own shares are, so that nothing
    the SAE was trained on is in its validation and test parts. Where the SAE's files name no text,
    nobody knows what it was trained on, and the text keeps its own shares.

    Args:
        loaded: the SAE.
        corpus: text, by name or file, or a list of texts; None: that of training.

    Raises:
        ConfigError: no corpus was named, and the SAE has no run with one; or see `kept_from`.
    """
    trained_on = loaded.card.run.get("corpus")
    if corpus is not None and corpus != "":
        return kept_from(as_corpus(corpus), trained_on)
    if trained_on is None:
        raise ConfigError("The SAE's files do not name a text to use. Name one with --corpus.")
    return Corpus.from_dict(trained_on)


def complete(
    loaded: TrainedSAE, lm: LanguageModel, corpus: Corpus, use: OpenOptions | None = None
) -> TrainedSAE:
    """Return an SAE whose card has all that is needed to run it; one without gaps is unchanged.

    Which tokens count is decided by saekit's usual rule, with the median norm of the first rows
    of the text's training part. What was filled in, or what the user decided against the files,
    is in ``provenance["filled"]``, and what a reader must know about it in the notes.

    Raises:
        ConfigError: the files do not say the site, and nobody did; or the model cannot read rows
            as `use` asks for.
        UnknownNameError: the model has no such site.
    """
    card, use = loaded.card, use or OpenOptions()
    if UNKNOWN in card.pair.sites:
        raise ConfigError(_no_site(card))
    if use.n_ctx < 0:
        raise ConfigError(
            f"`n_ctx` is a number of tokens, or 0 for that of training; got {use.n_ctx}."
        )
    if use.bos and lm.tokenizer.bos_id is None:
        raise ConfigError(
            f"Rows were to begin with BOS; the tokenizer of {lm.name} has none. Leave bos= out, on "
            f"a command line --bos."
        )
    bos = replace(card, bos=card.bos if use.bos is None else use.bos).bos_id(lm.tokenizer)
    filled: dict[str, Any] = {"bos": bos is not None, "n_ctx": use.n_ctx or card.n_ctx or N_CTX}
    if filled["n_ctx"] > lm.n_ctx_max:
        raise ConfigError(
            f"Rows would have {filled['n_ctx']} tokens; {lm.name} reads {lm.n_ctx_max} at most. "
            f"Give a shorter context: n_ctx=, on a command line --n-ctx."
        )
    filled = {k: v for k, v in filled.items() if v != getattr(card, k)}
    notes = [*_about_rows(card, use, filled), *_about_model(card, lm)]
    found = replace(card, **filled)
    if "seq" in loaded.cfg.event and not found.pair.window:
        # Files of temporal SAEs say no window, and any fits. Tokens that do not count cut a row,
        # and what is left over of a cut row is not measured: a quarter of a row loses little.
        window = max(found.n_ctx // 4, 1)
        found = replace(found, pair=replace(found.pair, window=window))
        notes.append(f"coded in windows of {window} tokens; the files do not say how many")
    rules = _rules(found, lm, corpus)
    if rules != card.rules:
        filled["rules"] = {s: r.to_dict() for s, r in rules.items() if card.rules.get(s) != r}
    if not filled and not notes:
        return loaded
    provenance = card.provenance | {"filled": filled, "trained_on": said_of(card)["trained_on"]}
    provenance["notes"] = list(dict.fromkeys([*notes_of(card), *notes]))
    model = lm.provenance()
    return replace(loaded, card=replace(found, rules=rules, model=model, provenance=provenance))


def notes_of(card: Card) -> list[str]:
    """Return what a reader of an SAE's numbers must know."""
    return list(card.provenance.get("notes", []))


def said_of(card: Card) -> dict[str, Any]:
    """Return what a result says about the SAE that was measured, JSON-ready."""
    return {
        "bos": card.bos,
        "n_ctx": card.n_ctx,
        "trained_on": card.provenance.get("trained_on", card.model),
        "notes": notes_of(card),
    }


def _about_rows(card: Card, use: OpenOptions, filled: dict[str, Any]) -> list[str]:
    """Say what rows are like where the files do not, or where the user wants them otherwise."""
    notes = []
    if "bos" in filled:
        way = "rows begin with BOS" if filled["bos"] else "rows begin without BOS"
        if use.bos is not None:
            before = "with" if card.bos else "without"
            why = "as asked" if card.bos is None else f"as asked; it was trained {before}"
        elif card.bos is None:
            why = "as the tokenizer of the model has it; the files do not say (--bos, --no-bos)"
        else:
            why = "the tokenizer of the model has none"
        notes.append(f"{way}, {why}")
    if "n_ctx" in filled:
        why = f"it was trained on rows of {card.n_ctx}" if card.n_ctx else "the files do not say"
        notes.append(f"rows of {filled['n_ctx']} tokens; {why}")
    return notes


def _about_model(card: Card, lm: LanguageModel) -> list[str]:
    """Say where the model is not that of training, and in which precision it computes."""
    published = (card.provenance.get("published") or {}).get("model")
    name, revision = published or card.model["name"], card.model.get("revision")
    other = name not in ("unknown", lm.name) and full_name(name) != lm.name
    other = other if revision is None else revision != lm.revision
    notes = [f"run on {lm.name}; trained on {name}"] if other else []
    dtype, before = str(lm.dtype).removeprefix("torch."), card.model.get("dtype", "unknown")
    if dtype != before:
        of = (
            "the files do not say what it was in training"
            if before == "unknown"
            else (f"in training it was {before}")
        )
        notes.append(f"the language model computes in {dtype}; {of}")
    return notes


def _rules(card: Card, lm: LanguageModel, corpus: Corpus) -> dict[str, FittedRule]:
    """Return which tokens count at every site: the card's, and the usual rule where it has none.

    Special tokens are those of the model that is run.
    """
    rules = dict(card.rules)
    if card.model.get("tokenizer") not in (None, lm.tokenizer.digest):
        special = tuple(sorted(lm.tokenizer.special_ids))
        rules = {site: rule._replace(special_ids=special) for site, rule in rules.items()}
    if rules and not card.lacking_rules:
        return rules
    rule = next((r.rule for r in rules.values()), TokenRule())
    stream = TokenStream(
        corpus, "train", lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bool(card.bos)
    )
    return Harvest(lm, stream, card.pair, rule).rules | rules
