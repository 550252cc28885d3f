"""Packaged: real text out of a pinned wheel, so that no data hub is needed."""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import (
    cache_folder,
    digest,
    read_json,
    sha256_of,
    to_json_line,
    write_json,
    write_text,
)
from saekit.core.wheels import SAE_PROBES, fetch
from saekit.data.base import SPLITS, Corpus, Document, Split, registry
from saekit.data.overlap import NGRAM_WORDS, NGrams
from saekit.data.packed_text import SETS, read_set
from saekit.data.split import normalise, rule_of, split_of

_VERSION = 1  # raised when cleaning or selection gives other documents
_LEAST_CHARS = 200
_PREFIX_CHARS = 120
_MOST_SEEN = 0.3  # share of 8-grams that make a document a copy of earlier ones
_MOST_SHARED = 0.1  # share of 8-grams that a test document may have in common with train


@registry.register
@dataclass(frozen=True, kw_only=True)
class Packaged(Corpus):
    """News, web pages, reviews, abstracts, stories and Python from one 45 MB wheel.

    The default text: about 5 M tokens. Made once from the pinned wheel, then kept in the
    cache folder. Documents of all sets are mixed in a fixed order, so that any part is a
    sample of the whole. Passages count once: documents that begin alike, or have over 30 %
    of their 8-word runs in an earlier document, are left out, and so is every document for
    validation or the test that has over 10 % of them in train. Validation and test text are not
    compared with each other.

    Args:
        sets: which texts, of the names in `saekit.data.packed_text.SETS`; at least one.
        test_share: share of passages that are test, before overlapping ones are left out.
        validation_share: share of passages that are for validation, likewise.
        seed: of the order.

    Raises:
        ConfigError: a set is unknown or named twice, or a share is out of range.

    Source:
        sae-probes 0.4.2 (Kantamneni et al. 2025, arXiv:2502.16681), MIT; the texts keep the
        licences of the data sets they were taken from.
    """

    name: ClassVar[str] = "packaged"

    sets: tuple[str, ...] = setting(
        ("news", "web", "yelp", "amazon", "abstracts", "passages", "python"),
        choices=tuple(sorted(SETS)),
    )
    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sets or len(set(self.sets)) < len(self.sets):
            raise ConfigError(
                f"`sets` names at least one set, and each once; got {list(self.sets)}. "
                f"There are {', '.join(sorted(SETS))}."
            )

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        folder, _ = self._made()
        if split not in _written(self):
            return
        with (folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield Document(**json.loads(line))

    @override
    def provenance(self) -> dict[str, Any]:
        return self._made()[1]

    @property
    def folder(self) -> Path:
        """Where the documents are kept once they were made."""
        key = digest([json.dumps(self.to_dict()), SAE_PROBES.sha256, str(_VERSION)])
        return cache_folder() / "corpora" / f"packaged-{key[:16]}"

    def _made(self) -> tuple[Path, dict[str, Any]]:
        folder = self.folder
        manifest = _whole(folder)
        if manifest is None:
            _make(self, folder)
            _whole.cache_clear()
            manifest = read_json(folder / "manifest.json")
        return folder, manifest


class _Documents(NamedTuple):
    documents: dict[Split, list[Document]]
    left_out: dict[str, int]


def _written(corpus: Packaged) -> list[Split]:
    """Return the splits that have a file: validation where the corpus keeps some."""
    return [s for s in SPLITS if s != "validation" or corpus.validation_share]


@functools.lru_cache(maxsize=16)
def _whole(folder: Path) -> dict[str, Any] | None:
    """Return the manifest if the files are the ones it was written for, checked once."""
    try:
        manifest = read_json(folder / "manifest.json")
        sums = {name: sha256_of(folder / name) for name in manifest["sha256"]}
    except (FormatError, FileNotFoundError, KeyError):
        return None
    return manifest if sums == manifest["sha256"] else None


def _make(corpus: Packaged, folder: Path) -> None:
    wheel = fetch(SAE_PROBES)
    chosen = _choose(_unique(wheel, corpus.sets), corpus)
    for split, documents in chosen.documents.items():
        # These fields alone, and in this order: the sum of the file identifies the text.
        each = [{n: getattr(d, n) for n in ("text", "source", "kind")} for d in documents]
        lines = [to_json_line(one) + "\n" for one in each]
        write_text(folder / f"{split}.jsonl", "".join(lines))
    counts = {
        split: {
            "n_docs": len(documents),
            "n_chars": sum(len(d.text) for d in documents),
            "n_docs_of": {s: sum(d.source == s for d in documents) for s in corpus.sets},
        }
        for split, documents in chosen.documents.items()
    }
    manifest = {
        "wheel": {
            "package": SAE_PROBES.package,
            "version": SAE_PROBES.version,
            "sha256": SAE_PROBES.sha256,
            "licence": SAE_PROBES.licence,
        },
        "version": _VERSION,
        "split_rule": f"{rule_of(corpus.validation_share)}; "
        f"{' and '.join(s for s in chosen.documents if s != 'train')} documents with over "
        f"{_MOST_SHARED:.0%} of their {NGRAM_WORDS}-word runs in train left out",
        "splits": counts,
        "left_out_docs": chosen.left_out,
        "sha256": {f"{s}.jsonl": sha256_of(folder / f"{s}.jsonl") for s in chosen.documents},
    }
    write_json(folder / "manifest.json", manifest)  # last: it says that the rest is whole


def _unique(wheel: Path, sets: tuple[str, ...]) -> tuple[list[Document], dict[str, int]]:
    """Return documents that neither are short nor begin like another, by set."""
    documents: list[Document] = []
    seen: set[str] = set()
    counts = {"short": 0, "same_beginning": 0, "over_the_share_of_its_set": 0}
    for name in sets:
        kept: list[Document] = []
        for text in read_set(wheel, name):
            beginning = normalise(text)[:_PREFIX_CHARS]
            if len(text) < _LEAST_CHARS:
                counts["short"] += 1
            elif beginning in seen:
                counts["same_beginning"] += 1
            else:
                seen.add(beginning)
                kept.append(Document(text, name))
        most = SETS[name].most_docs or len(kept)
        counts["over_the_share_of_its_set"] += max(len(kept) - most, 0)
        documents += sorted(kept, key=lambda d: _rank(d, 0))[:most]
    return documents, counts


def _choose(unique: tuple[list[Document], dict[str, int]], corpus: Packaged) -> _Documents:
    documents = sorted(unique[0], key=lambda d: _rank(d, corpus.seed))
    grams = NGrams([d.text for d in documents])
    fresh = grams.seen_before() <= _MOST_SEEN
    shares = corpus.test_share, corpus.validation_share
    dealt = np.array([split_of(d.text, *shares) for d in documents], dtype=np.str_)
    train = fresh & (dealt == "train")
    left_out = unique[1] | {"copies": int((~fresh).sum())}
    kept: dict[Split, list[Document]] = {}
    for split in _written(corpus):
        mine = fresh & (dealt == split)
        if split != "train":
            apart = mine & (grams.in_others(mine, train) <= _MOST_SHARED)
            left_out[f"{split}_like_train"] = int(mine.sum() - apart.sum())
            mine = apart
        kept[split] = [documents[i] for i in np.flatnonzero(mine)]
    return _Documents(kept, left_out)


def _rank(document: Document, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{document.source}/{document.text}".encode()).hexdigest()
