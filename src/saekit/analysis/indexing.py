"""Indexing: encode a corpus once and make the tables of each latent from the codes."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saekit.activations.latents import LatentStore, is_store
from saekit.analysis.coding import STORE, Coder, code, forget, work_of
from saekit.analysis.columns.base import Made
from saekit.analysis.index_files import write_files
from saekit.core import parts, provenance
from saekit.core.errors import ConfigError
from saekit.core.files import need_space, sha256_of
from saekit.core.lock import claimed_file, made_whole
from saekit.core.sealed import write_sealed
from saekit.data import parquet
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import TokenStream
from saekit.hub.index_manifest import CODES, FILES, FORMAT, MANIFEST, OLD, VERSION
from saekit.hub.opening import said_of
from saekit.hub.sae_files import fingerprint
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel, refuse_edits

ENTRY_BYTES, USUAL_ON = 24, 32  # of a code on disk; latents on at a token, as a rule


@dataclass(frozen=True)
class Subject:
    """An SAE to be indexed.

    Args:
        loaded: the SAE as it codes; its card has no gaps.
        out: the folder to make; an earlier index in it stays until the new one is whole.
        whole: gives the SAE with weights of its own, for what is read of them; None: `loaded`.
        family: where several of these are one SAE at its sites, what it is called.
    """

    loaded: TrainedSAE
    out: Path
    whole: Callable[[], TrainedSAE] | None = None
    family: str = ""


def make_index(
    loaded: TrainedSAE,
    lm: LanguageModel,
    out: Path,
    *,
    tokens: int,
    text: tuple[Corpus, Split] | None = None,
    shown: bool = True,
    **how: Any,
) -> dict[str, Any]:
    """Make the index of one SAE; return counts. See `make_indexes`."""
    subject = Subject(loaded, out)
    return make_indexes([subject], lm, tokens=tokens, text=text, shown=shown, **how)[0]


def make_indexes(
    subjects: Sequence[Subject],
    lm: LanguageModel,
    *,
    tokens: int,
    text: tuple[Corpus, Split] | None = None,
    codes: bool = False,
    fresh: bool = False,
    shown: bool = True,
) -> list[dict[str, Any]]:
    """Make the indexes of SAEs of one model and text, in one pass of the model.

    A crosscoder is indexed by token, from all its sites; what its latents promote is by what
    they write at the last. Of an SAE of windows each token of a window has its own code, and
    tokens that fall in no window have none.

    Codes are written next to each index as they are made. An indexing that was broken off goes on
    from them when it is asked for again with the same settings.

    Args:
        subjects: the SAEs, of rows of one length.
        lm: the model they were trained on.
        tokens: tokens of text that count, at least 1; fewer where the text is shorter.
        text: a corpus and which part of it; the text of the training run where None.
        codes: keep every code in the index, for analyses.
        fresh: throw away what an indexing that was broken off left.
        shown: show progress on stderr.

    Returns:
        for each ``tokens``, ``entries``, ``rows``, ``seconds``.

    Raises:
        ConfigError: one of several sites is needed and none was named, or the SAE codes them
            jointly and one was; `tokens` is below 1; the place holds something else than an index;
            or what was broken off had other settings.
        DataError: the text holds no token that counts.
        MissingExtraError: pyarrow is not installed.
    """
    refuse_edits(lm)
    parquet.check()
    began = time.monotonic()
    if tokens < 1:
        raise ConfigError(f"`tokens` must be at least 1; got {tokens}.")
    card = subjects[0].loaded.card
    corpus, split = text or (Corpus.from_dict(card.run["corpus"]), "train")
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(corpus, split, lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos)
    go_on = "The codes so far are kept: the same command goes on."
    with contextlib.ExitStack() as held:
        for subject in subjects:
            held.enter_context(claimed_file(subject.out, "saekit index", go_on))
            if not (subject.out.is_dir() and is_replaced(subject.out)):
                parts.check_empty(subject.out, "Choose another folder with --out, or delete it.")
            if fresh:
                forget(subject.out)
        need_space(subjects[0].out, len(subjects) * tokens * USUAL_ON * ENTRY_BYTES)
        coders = [
            Coder(
                subject.loaded,
                weights_digest(subject.loaded.sae),
                lm,
                stream,
                tokens=tokens,
                work=work_of(subject.out),
            )
            for subject in subjects
        ]
        code(coders, lm, shown=shown)
        made = []
        for subject, coder in zip(subjects, coders, strict=True):
            profile = _profile_of(subject, subjects, coders)
            said = {"tokens_asked": tokens, "bos": bos, "codes": codes}
            made.append(_make(subject, coder, profile, said, began))
        for subject in subjects:  # all are in their places
            forget(subject.out)
    return made


def _profile_of(
    subject: Subject, subjects: Sequence[Subject], coders: Sequence[Coder]
) -> dict[str, LatentStore] | None:
    """Return the codes at every site of the SAE that a subject is one site of."""
    if not subject.family:
        return None
    both = zip(subjects, coders, strict=True)
    mine = [(c.pair.label, c.store) for s, c in both if s.family == subject.family]
    return {site: store for site, store in mine if store is not None}


def _files_of(loaded: TrainedSAE) -> str | None:
    """Return what tells the files of an SAE apart; None where it is in none."""
    return None if loaded.folder is None else fingerprint(loaded.folder)


def _make(
    subject: Subject,
    coder: Coder,
    profile: dict[str, LatentStore] | None,
    said: dict[str, Any],
    began: float,
) -> dict[str, Any]:
    """Make the tables of one index, put it in its place, and return its counts."""
    store, card = coder.store, subject.loaded.card
    assert store is not None  # it was coded
    whole = subject.loaded if subject.whole is None else subject.whole()
    made = Made(store, whole, coder.lm, coder.written)
    with made_whole(subject.out, "saekit index", replaces=is_replaced) as part:
        about = write_files(made, part, profile)
        files = {
            n: {"sha256": sha256_of(part / n), "bytes": (part / n).stat().st_size} for n in FILES
        }
        if said["codes"]:
            shutil.copytree(coder.work / STORE, part / CODES, copy_function=_linked)
        entries = int(store.counts.sum())
        counts = {"tokens": store.n_tokens, "rows": store.n_rows, "entries": entries}
        counts |= {"seconds": round(time.monotonic() - began, 3)}
        asked, split = said["tokens_asked"], coder.stream.split
        short = provenance.shortfall(asked, store.n_tokens, f"{split} text", "tokens that count")
        about_sae = said_of(card)
        notes = [*about_sae["notes"], *short]
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "d_sae": store.d_sae,
            "n_ctx": store.n_ctx,
            "n_tokens": store.n_tokens,
            "site": coder.pair.label,
            "model": card.model.get("name", "unknown"),
            "weights": weights_digest(whole.sae),
            "sae": None if subject.loaded.folder is None else str(subject.loaded.folder),
            "sae_files": _files_of(subject.loaded),
            "at": card.at,
            "logits_of": str(coder.written),
            "window": coder.pair.window,
            "split": split,
            "settings": {"tokens": asked},
            "harvest": coder.counts._asdict(),
            "counts": counts,
            "corpus": store.meta["corpus"],
            "card": card.to_dict(),
            "said": about_sae | {"bos": said["bos"], "notes": notes},
            "provenance": provenance.collect(),
            "files": files,
            **about,
        }
        write_sealed(part / MANIFEST, manifest)
    return counts


def _linked(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_replaced(folder: Path) -> bool:
    """Return whether a folder holds an index, of whatever version, and nothing else."""
    return is_store(folder, (MANIFEST, *FILES, CODES, *OLD))
