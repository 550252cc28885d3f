"""Index SAEs: one, several of one model in one pass, or one that several sites share."""

import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from saekit.analysis.index_folder import Index
from saekit.analysis.indexing import Subject, make_indexes
from saekit.core.errors import ConfigError
from saekit.core.files import read_object
from saekit.data.base import Corpus, as_split
from saekit.hub.index_manifest import INSIDE, is_index, sites_in
from saekit.hub.names import is_name, results_folder
from saekit.hub.native import load
from saekit.hub.opening import OpenSAE, opened
from saekit.hub.shared import SharedSAE
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel

SWEEP = "sweep.json"  # of a folder of runs


class Ready(NamedTuple):
    """An SAE with its model and text, and where its index goes."""

    opened: OpenSAE
    out: Path
    every_site: bool  # of one that several sites share, all of them


def runs_in(place: Path | str) -> list[Path | str]:
    """Return the runs that a place stands for: itself, or those of a sweep."""
    if is_name(place) or not (Path(place) / SWEEP).is_file():
        return [place]
    raw = read_object(Path(place) / SWEEP)
    names = raw.get("runs")
    found = [Path(place) / name for name in names] if isinstance(names, list | dict) else []
    there = [run for run in found if (run / "sae").is_dir()]
    if not there:
        raise ConfigError(f"The sweep in {place} has no SAE yet. Go on with it, then index.")
    return list(there)


def is_shared(loaded: TrainedSAE) -> bool:
    """Return whether several sites share an SAE and none of them was named."""
    return loaded.card.at is None and not loaded.cfg.event and len(loaded.card.pair.reads) > 1


def subjects_of(one: Ready) -> list[Subject]:
    """Return what is indexed of an SAE: itself, or a view of it at each site."""
    loaded = one.opened.loaded
    if not one.every_site:
        return [Subject(loaded, one.out)]
    if is_index(one.out):
        raise ConfigError(
            f"{one.out} holds the index of one site, and all sites are to be indexed, each in a "
            f"folder of it. Delete it first, or name a site: --site (site=)."
        )
    shared = SharedSAE(loaded.sae, loaded.card)
    found = []
    for site in shared.sites:
        card = replace(loaded.card, at=str(site))
        view = TrainedSAE(shared.at(site), card, loaded.folder)
        whole = functools.partial(_at, loaded, card)
        found.append(Subject(view, one.out / str(site), whole, str(one.out)))
    return found


def _at(loaded: TrainedSAE, card: Any) -> TrainedSAE:
    """Return an SAE with weights of its own for one of the sites that share it."""
    import copy

    sae = copy.deepcopy(loaded.sae)
    if card.scalings:
        sae.rescale(*card.scalings[card.at])
    return TrainedSAE(sae.eval(), card, loaded.folder)


def index_ready(ready: Sequence[Ready], *, shown: bool, split: str, **how: Any) -> list[Index]:
    """Index SAEs that are open, those of one model, text and length of rows in one pass.

    Args:
        ready: the SAEs.
        shown: show progress on stderr, and say where more than one pass is made.
        split: part of the text.
        how: see `make_indexes`.

    Raises: as `make_indexes`.
    """
    part = as_split(split, "split")
    outs = [one.out for one in ready]
    if twice := [out for out in outs if outs.count(out) > 1]:
        raise ConfigError(f"Two indexes would go to {twice[0]}. Index the SAEs one by one.")
    groups: dict[str, list[Ready]] = {}
    for one in ready:
        groups.setdefault(_pass_of(one), []).append(one)
    if len(groups) > 1 and shown:
        sys.stderr.write(
            f"index     {len(groups)} passes: the SAEs differ in model, text or length of rows\n"
        )
    found: dict[Path, Index] = {}
    for group in groups.values():
        lm, text = group[0].opened.lm, group[0].opened.text
        subjects = [subject for one in group for subject in subjects_of(one)]
        make_indexes(subjects, lm, text=(text, part), shown=shown, **how)
        found |= {subject.out: Index(subject.out) for subject in subjects}
    return list(found.values())


def _pass_of(one: Ready) -> str:
    """Return what SAEs must share to be indexed in one pass of the model."""
    card, lm = one.opened.loaded.card, one.opened.lm
    bos = card.bos_id(lm.tokenizer) is not None
    return repr((lm.provenance(), card.n_ctx, bos, one.opened.text.to_dict()))


def place_of(loaded: TrainedSAE, out: Path | str | None, n: int) -> Path:
    """Return the folder of an index.

    Args:
        loaded: the SAE.
        out: the folder that was named: of one index, or of several each a folder in it.
        n: how many SAEs are indexed.

    Raises:
        ConfigError: no folder is known.
    """
    if out is not None:
        if n == 1:
            return Path(out)
        if loaded.folder is None:
            raise ConfigError("SAEs in no folder are indexed one by one, each with its own out=.")
        return Path(out) / results_folder(loaded.folder).name
    if loaded.folder is None:
        raise ConfigError("This SAE is in no folder yet, so name one for the index: out=.")
    folder = results_folder(loaded.folder) / INSIDE
    at = loaded.card.at
    # Beside those of other sites, not in the place of all of them.
    return folder / at if at is not None and sites_in(folder) else folder


def index(  # noqa: PLR0913 - the words of `saekit index`
    sae: TrainedSAE | Path | str | Sequence[TrainedSAE | Path | str],
    lm: LanguageModel | None = None,
    *,
    tokens: int = 300_000,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    split: str = "train",
    site: str | None = None,
    out: Path | str | None = None,
    codes: bool = False,
    fresh: bool = False,
    shown: bool = True,
) -> Any:
    """Encode a text and keep where each latent is on, with examples, tokens, logits, neighbours.

    Several SAEs of one model are indexed in one pass of it. Of an SAE that several sites share all
    are, unless one is named, each in a folder of its own: ``RUN/index/L3.resid_post``. What was
    broken off goes on where it was when it is asked for again.

    Args:
        sae: the SAE, or the folder it is in; or several, among them folders of sweeps.
        lm: its language model; None: the one that its card names.
        tokens: tokens of text that count, at least 1; fewer where the text is shorter.
        corpus: other text, by name or file, or a list of texts; None: that of training.
        split: part of the text: "train", "validation" or "test".
        site: which site, where several share the SAE; None: all.
        out: the folder to make; None: ``index`` in the folder of the SAE.
        codes: keep every code too, for analyses; without them an analysis makes them.
        fresh: begin anew where an indexing was broken off.
        shown: show progress on stderr.

    Returns:
        the index (`Index`); a list of them where several SAEs were given, or several sites share
        the SAE.

    Raises:
        ConfigError: a number is out of range, or no folder is known; or what was broken off had
            other settings.
        DataError: the text holds no token that counts.
        MissingExtraError: pyarrow is not installed.
    """
    one = isinstance(sae, TrainedSAE | Path | str)
    given = list(_each([sae] if one else sae))  # type: ignore[list-item,arg-type]
    if not given:
        raise ConfigError("There is no SAE to index. Give one, or several in a list.")
    ready = []
    for place in given:
        loaded = place if isinstance(place, TrainedSAE) else _read(place, site)
        where = place_of(loaded, out, len(given))
        every = not isinstance(place, TrainedSAE) and is_shared(loaded)
        ready.append(Ready(opened(loaded, lm, corpus), where, every))
        lm = lm or ready[0].opened.lm if _same_model(ready) else lm
    found = index_ready(ready, shown=shown, split=split, tokens=tokens, codes=codes, fresh=fresh)
    return found[0] if one and len(found) == 1 else found


def _same_model(ready: Sequence[Ready]) -> bool:
    """Return whether SAEs so far name one model, so that it is loaded once."""
    return len({repr(one.opened.loaded.card.model) for one in ready}) == 1


def _read(place: Path | str, site: str | None) -> TrainedSAE:
    """Return an SAE; of one that several sites share, where none is named, that of all of them."""
    if site is not None:
        return load(place, site=site)
    found = load(place, scaled=True)
    if found.card.scalings and not is_shared(found):
        return load(place, site=str(found.card.pair.reads[0]))
    return found


def _each(saes: Iterable[TrainedSAE | Path | str]) -> Iterable[TrainedSAE | Path | str]:
    for sae in saes:
        if isinstance(sae, TrainedSAE):
            yield sae
        else:
            yield from runs_in(sae)
