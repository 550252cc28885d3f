"""`saekit.evaluate`: an evaluation of SAEs on text they were not trained on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from saekit.core.config import changed, read_number
from saekit.core.errors import ConfigError
from saekit.core.folder_names import distinct_names
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.data.base import Corpus, HeldOut, Split, as_held_out
from saekit.data.held_out import kept_from_all
from saekit.data.tokenise import TokenStream
from saekit.evals.base import Eval, JointEval, SitePair, Subject, Tools, registry
from saekit.hub.names import results_folder
from saekit.hub.opening import AnySAE, OpenSAE, each_of, opened, said_of, text_of
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, refuse_edits
from saekit.models.sites import parse_site


@overload
def evaluate(
    sae: AnySAE,
    lm: LanguageModel | None = None,
    eval: Eval | str = "core",
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    tables: bool = False,
    split: HeldOut = "test",
    shown: bool = True,
    tokens: int | None = None,
    **settings: Any,
) -> Result: ...


@overload
def evaluate(
    sae: list[AnySAE] | list[TrainedSAE] | list[Path] | list[str],
    lm: LanguageModel | None = None,
    eval: Eval | str = "core",
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    tables: bool = False,
    split: HeldOut = "test",
    shown: bool = True,
    tokens: int | None = None,
    **settings: Any,
) -> Any: ...


def evaluate(  # noqa: PLR0913 - the words of `saekit eval`
    sae: AnySAE | Sequence[AnySAE],
    lm: LanguageModel | None = None,
    eval: Eval | str = "core",
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    tables: bool = False,
    split: HeldOut = "test",
    shown: bool = True,
    tokens: int | None = None,
    **settings: Any,
) -> Result | list[Result]:
    """Measure one SAE or several on held-out text: that of its training corpus, or another.

    Another text is split as that of training was, so that no document the SAE was trained on is
    read.

    Args:
        sae: the SAE, or the folder it is in; or a list of these.
        lm: its language model; None: the one that its card names.
        eval: which evaluation (`saekit list evals`), or one with its settings.
        corpus: other text, by name or file, or a list of texts; None: that of training.
        site: which site, where several share the SAE.
        seed: of what an evaluation draws at random; core draws nothing.
        out: a file to write the result to; for a list only where there is one result of all.
        tables: write what the evaluation finds about every latent to RUN/analysis.
        split: "test", for what is reported, or "validation", to choose between settings.
        shown: show progress on stderr.
        tokens: how much text, `n_tokens` of the evaluation; losses are measured on a quarter of it.
        settings: settings of the evaluation, such as ``ce_tokens=4_096``.

    Returns:
        scores with 95 % intervals; `print` shows them. For a list, a result for each SAE, in their
        order; where the evaluation measures SAEs together (`seed_stability`), one result for all.

    Raises:
        ConfigError: a setting is unknown, or the SAE's files leave out its text or model.
        DataError: the held-out text is shorter than a row.
    """
    config, split = configured(eval, tokens, settings), as_held_out(split)
    models: dict[str, LanguageModel] = {}
    if isinstance(sae, AnySAE):
        one = opened(sae, lm, corpus, site)
        found = measure_all([one], config, site, seed, shown, tables, split)[0]
    else:
        every = [opened(one, lm, corpus, site, models=models) for one in each_of(sae)]
        if not isinstance(config, JointEval):
            if out is not None:
                raise ConfigError(
                    f"`{config.name}` gives a result for each of {len(every)} SAEs, and `out` is "
                    f"one file: {out}. Leave it out, and write each result: result.write(path)."
                )
            return measure_all(every, config, site, seed, shown, tables, split)
        found = measure_together(every, config, site, seed, shown, tables, split)
    if out is not None:
        found.write(Path(out))
    return found


def configured(eval: Eval | str, tokens: int | None, settings: dict[str, Any]) -> Eval:
    """Return an evaluation with settings; see `evaluate`."""
    config = registry.get(eval)() if isinstance(eval, str) else eval
    if tokens is not None:
        settings = {"n_tokens": tokens} | settings
    if "n_tokens" in settings and hasattr(config, "ce_tokens") and "ce_tokens" not in settings:
        given = settings["n_tokens"]
        n = read_number(given) if isinstance(given, str) else given
        if isinstance(n, int):  # else it is refused below
            most = min(int(config.ce_tokens), n)  # type: ignore[attr-defined]
            settings = settings | {"ce_tokens": most if tokens is None else max(n // 4, 1)}
    return changed(config, settings.items())


def measure(
    loaded: TrainedSAE,
    lm: LanguageModel,
    config: Eval,
    *,
    corpus: Corpus | str | None = None,
    site: str | None = None,
    seed: int = 0,
    shown: bool = True,
) -> Result:
    """Run one evaluation of an SAE on the held-out part of its corpus, or of another.

    An SAE that codes its sites jointly is measured at all of them.

    Raises:
        ConfigError: the SAE is folded over several sites and none, or another one, was
            named; or it codes them jointly and one was.
    """
    text = text_of(loaded, corpus)
    return measure_all([OpenSAE(loaded, lm, text)], config, site, seed, shown)[0]


def measure_all(
    saes: Sequence[OpenSAE],
    config: Eval,
    site: str | None = None,
    seed: int = 0,
    shown: bool = True,
    tables: bool = False,
    split: HeldOut = "test",
) -> list[Result]:
    """Run an evaluation of several SAEs: a result for each, in their order.

    SAEs of one model that read the same rows of the same text may share the model's pass over it
    (see `Eval.run_all`); no number depends on which other SAEs are measured.

    Raises: as `measure`.
    """
    found: dict[int, Result] = {}
    for places in read_alike(saes):
        some = [saes[i] for i in places]
        subjects = [subject_of(one, site) for one in some]
        results = config.run_all(subjects, _tools(some, subjects, (seed, shown, tables), split))
        for i, one, result in zip(places, some, results, strict=True):
            said = said_of(one.loaded.card)
            notes = [*said["notes"], *result.provenance.get("notes", [])]
            made = said | {"bos": _bos(one), "split": split, "notes": notes}
            made |= {"text": one.text.label if config.reads_text else None}
            found[i] = replace(result, provenance=result.provenance | made)
    return [found[i] for i in range(len(saes))]


def measure_together(
    saes: Sequence[OpenSAE],
    config: JointEval,
    site: str | None = None,
    seed: int = 0,
    shown: bool = True,
    tables: bool = False,
    split: HeldOut = "test",
) -> Result:
    """Run an evaluation of several SAEs of one model together, on one text: one result.

    Raises:
        ConfigError: they are to be read on other text, or rows of other lengths; their trainings
            kept no text in common; or as `measure`.
    """
    saes, subjects, tools = prepared(saes, config.name, site, (seed, shown, tables), split)
    result = config.run_together(subjects, tools)
    cards = {s.name: one.loaded.card for s, one in zip(subjects, saes, strict=True)}
    notes = list(dict.fromkeys(note for card in cards.values() for note in said_of(card)["notes"]))
    made = {
        "saes": {name: said_of(card) for name, card in cards.items()},
        "bos": _bos(saes[0]) if saes else None,
        "split": split,
        "text": saes[0].text.label if saes else None,
        "notes": [*result.provenance.get("notes", []), *notes],
    }
    return replace(result, provenance=result.provenance | made)


def prepared(
    saes: Sequence[OpenSAE],
    name: str,
    site: str | None,
    said: tuple[int, bool, bool],
    split: HeldOut = "test",
) -> tuple[list[OpenSAE], list[Subject], Tools]:
    """Return SAEs of one model with the text that all of them are measured on.

    The texts of the SAEs that are returned are dealt alike, so that none reads what any was trained
    on.

    Args:
        saes: opened; a subject is called by its folder.
        name: of what measures them, for errors.
        site: which site, where several share an SAE.
        said: seed, shown and tables; see `evaluate`.
        split: see `evaluate`.

    Raises:
        ConfigError: they are to be read on other text, or rows of other lengths; or their trainings
            kept no text in common.
    """
    saes = _on_one_text(saes, split)
    for one in saes[1:]:
        if _reads(one) != _reads(saes[0]):
            names = f"{saes[0].loaded!r} and {one.loaded!r}"
            raise ConfigError(
                f"`{name}` reads one text for all SAEs; the model, the text, the length of rows or "
                f"BOS of {names} differ. Say which: corpus=, on a command line --corpus, --n-ctx "
                f"and --bos."
            )
    names = distinct_names([one.loaded.folder for one in saes])
    subjects = [
        subject_of(one, site)._replace(name=called) for one, called in zip(saes, names, strict=True)
    ]
    return saes, subjects, _tools(saes, subjects, said, split)


def _on_one_text(saes: Sequence[OpenSAE], split: HeldOut) -> list[OpenSAE]:
    """Return SAEs whose texts are dealt alike."""
    names = distinct_names([one.loaded.folder for one in saes])
    texts = (one.loaded.card.run.get("corpus") for one in saes)
    trained = list(zip(names, texts, strict=True))
    return [one._replace(text=kept_from_all(one.text, trained, split)) for one in saes]


def read_alike(saes: Sequence[OpenSAE]) -> list[list[int]]:
    """Group SAEs that read the same rows with one model; return their places in `saes`."""
    alike: dict[str, list[int]] = {}
    for i, one in enumerate(saes):
        alike.setdefault(_reads(one), []).append(i)
    return list(alike.values())


def stream_of(one: OpenSAE, split: Split = "test") -> TokenStream:
    """Return the rows of a part of its text as an SAE reads them."""
    n_ctx, tokenizer = one.loaded.card.n_ctx, one.lm.tokenizer
    return TokenStream(one.text, split, tokenizer, n_ctx=n_ctx, bos_each_row=_bos(one))


def _reads(one: OpenSAE) -> str:
    """Return a text that is the same for SAEs that read the same rows with the same model."""
    text = json.dumps(one.text.to_dict(), sort_keys=True)
    return repr((id(one.lm), one.loaded.card.n_ctx, _bos(one), text))


def _bos(one: OpenSAE) -> bool:
    return one.loaded.card.bos_id(one.lm.tokenizer) is not None


def _tools(
    saes: Sequence[OpenSAE],
    subjects: Sequence[Subject],
    said: tuple[int, bool, bool],
    split: HeldOut,
) -> Tools:
    """Return what an evaluation works with; `said` are seed, shown and tables."""
    seed, shown, tables = said
    if not saes:
        return Tools(rows=lambda _: (), seed=seed, shown=shown)
    stream = stream_of(saes[0], split)
    folders = [one.loaded.folder for one in saes]

    def keep(subject: Subject, name: str, table: Table) -> None:
        place = next(f for s, f in zip(subjects, folders, strict=True) if s is subject)
        if tables and place is not None:
            table_files.write(table, results_folder(place) / "analysis" / name)

    return Tools(rows=stream.rows, seed=seed, shown=shown, keep=keep, split=split)


def subject_of(one: OpenSAE, site: str | None = None) -> Subject:
    """Return an SAE together with the place in its model where it is measured.

    Args:
        one: the SAE.
        site: which site, where several share it; None: the one that it was loaded for.

    Raises:
        ConfigError: no site, or another one than the SAE has, is named; or SAEs are spliced into
            the model.
    """
    loaded, lm = one.loaded, one.lm
    refuse_edits(lm)
    card = loaded.card
    site = site or card.at
    ways = {
        read: SitePair(
            read,
            write,
            card.rules[str(read)],
            None if read == write else card.rules.get(str(write)),
        )
        for read, write in zip(card.pair.reads, card.pair.writes, strict=True)
    }
    joint = "site" in loaded.sae.cfg.event
    if joint and site is not None:
        raise ConfigError(
            f"The SAE codes {', '.join(map(str, ways))} jointly and is measured at all of them; "
            f"got {site}. Leave `site` out: the result has each site's own scores."
        )
    read = parse_site(site) if site else card.pair.reads[0]
    if read not in ways or (site is None and len(ways) > 1 and not joint):
        raise ConfigError(
            f"The SAE reads {', '.join(map(str, ways))}; got {site or 'no site'}. Name one of "
            f"them: site=, on a command line --site."
        )
    if card.scalings and card.at != str(read):
        raise ConfigError(
            f"The SAE was loaded for activations of {card.at or 'no site'}; got {read}. Load "
            f"it with site={str(read)!r}."
        )
    return Subject(
        sae=loaded.sae,
        lm=lm,
        read=read,
        write=ways[read].write,
        rule=ways[read].rule,
        write_rule=ways[read].write_rule,
        name=f"{card.pair.label} at {read}" if len(ways) > 1 and not joint else card.pair.label,
        beside=tuple(ways.values())[1:] if joint else (),
        window=card.pair.window,
        trained=card.run,
    )
