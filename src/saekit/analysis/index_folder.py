"""Index: what `saekit index` left in a folder, and `saekit.index`, which makes it."""

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final
from weakref import WeakValueDictionary

import numpy as np

from saekit.analysis.index_words import FORMER_GROUP, ORDER, Column
from saekit.analysis.latent import Latent
from saekit.analysis.side_tables import SideColumn, named, side_columns
from saekit.core import notebook
from saekit.core.border import bordered, reading
from saekit.core.errors import FormatError, UnknownNameError, nearest
from saekit.core.held import Held
from saekit.core.result import Table
from saekit.core.text import split_text
from saekit.data.parquet import Lists, ParquetFile, Values
from saekit.hub.index_manifest import (
    CODES,
    CONTEXTS,
    DETAILS,
    EXAMPLES,
    LATENTS,
    MANIFEST,
    VOCAB,
    check_weights,
    checked_file,
    command,
    read_manifest,
)

if TYPE_CHECKING:
    from saekit.activations.latents import LatentStore

SHOWN_CONTEXTS = 8
SHOWN_ACT = 0.5  # share of a context's peak from which a token is marked
DIGITS = 4  # significant digits of numbers in records
_NEEDED = ("d_sae", "n_ctx", "n_tokens", "site", "weights", "model", "columns", "bands", "counts")
GROUP_BYTES = 2**26  # of groups of rows in memory, of all indexes together
TEXT_BYTES = 64  # of a short text in a list, about


class Band(NamedTuple):
    """What a band of examples is, for the reader."""

    title: str
    about: str


@final
class Contexts(list[dict[str, Any]]):
    """Texts in which a latent is on, the strongest first; `print` marks where."""

    def __init__(self, latent: int, records: list[dict[str, Any]], words: dict[str, Any]):
        super().__init__(records)
        self.latent, self.words = latent, words

    def __repr__(self) -> str:
        lines = [f"latent {self.latent}: {len(self)} contexts, the strongest first"]
        for name in ("promoted", "suppressed"):
            if tokens := self.words.get(name):
                listed = ", ".join(repr(token) for token, _ in tokens[:SHOWN_CONTEXTS])
                lines.append(f"  {name:<10} {listed}")
        lines += [f"  {c['value']:8.4g}  {_marked(c)}" for c in self[:SHOWN_CONTEXTS]]
        return "\n".join(lines)


BEFORE, AFTER = 15, 8  # tokens about the peak in a printed line


def _marked(context: dict[str, Any]) -> str:
    """Return a context as one line, with the tokens at which the latent is strong in brackets."""
    least, peak = SHOWN_ACT * abs(context["value"]), context["peak"]
    begin = max(0, (len(context["tokens"]) // 2 if peak is None else peak) - BEFORE)
    end = begin + BEFORE + 1 + AFTER
    pairs = zip(context["tokens"][begin:end], context["acts"][begin:end], strict=True)
    parts = [f"[{token}]" if act and abs(act) >= least else token for token, act in pairs]
    return "".join(parts).replace("\n", " ")


class _Groups:
    """Groups of rows of a file, of which those last used are held in memory."""

    def __init__(self, file: ParquetFile):
        self.file = file

    def __getitem__(self, number: int) -> dict[str, Values]:
        if (found := _groups.get((self, number))) is None:
            found = self.file.group(number)
            n_bytes = sum(_bytes_of(values) for values in found.values())
            _groups.put((self, number), found, n_bytes)
        return found


_groups = Held(GROUP_BYTES)


def _bytes_of(values: Values) -> int:
    """Return the bytes of a column in memory; of texts about."""
    if isinstance(values, Lists):
        return values.values.nbytes + values.starts.nbytes
    return values.nbytes if isinstance(values, np.ndarray) else TEXT_BYTES * len(values)


class _Vocabulary:
    """The tokens of a model: ``raw`` as bytes, ``texts`` (None of one that is no whole character).

    Indexes of the same tokens have one.
    """

    def __init__(self, raw: list[bytes]):
        self.raw = raw

    @functools.cached_property
    def texts(self) -> list[str | None]:
        found: list[str | None] = []
        for raw in self.raw:
            try:
                found.append(raw.decode())
            except UnicodeDecodeError:
                found.append(None)
        return found


_vocabularies: WeakValueDictionary[str, _Vocabulary] = WeakValueDictionary()  # by SHA-256


@final
class Index:
    """What an SAE's latents were on at in a text. Reading it needs no language model.

    Args:
        folder: what `saekit index` made.

    Raises:
        FormatError: it holds no index, one of an earlier version, or a damaged one; the text says
            which command makes it.

    Attributes:
        folder: where it is.
        manifest: what it was made from, JSON-ready.
        d_sae: latents.
        n_ctx: tokens of a row.
        n_tokens: tokens of text that count.
        site: the site, or sites that are coded jointly.
        weights: digest of the SAE's weights.
        model: name of the language model.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder)
        if lacking := [name for name in _NEEDED if name not in self.manifest]:
            raise FormatError(
                f"{self.folder} has no `{lacking[0]}` in its manifest: it is damaged. Make it "
                f"again: {command(self.folder)}"
            )
        self.d_sae: int = self.manifest["d_sae"]
        self._group: int = self.manifest.get("group", FORMER_GROUP)
        self.n_ctx: int = self.manifest["n_ctx"]
        self.n_tokens: int = self.manifest["n_tokens"]
        self.site: str = self.manifest["site"]
        self.weights: str = self.manifest["weights"]
        self.model: str = self.manifest["model"]

    def __repr__(self) -> str:
        return f"Index({self.folder}: {self.d_sae:,} latents over {self.n_tokens:,} tokens)"

    @property
    def n_bytes(self) -> int:
        """Bytes of what was read of it and stays in memory, without the tokens and the examples."""
        read = vars(self)
        columns = {id(v): v for v in read.get("values", {}).values()}.values()
        contexts = read.get("_contexts", ())
        return sum(map(_bytes_of, columns)) + sum(part.nbytes for part in contexts)

    @property
    def made(self) -> dict[str, Any]:
        """What making it counted: tokens, rows, entries, seconds."""
        return self.manifest["counts"]

    @functools.cached_property
    def columns(self) -> dict[str, Column]:
        """What each column of a latent is: those of the index, and of tables that lie next to it.

        Such a table (RUN/analysis/NAME.csv or .parquet) has one row a latent. Its columns keep
        their names where nothing else has them, else they are called NAME.column.
        """
        with reading(self.folder / MANIFEST, "the manifest of an index"):
            own = {name: Column(**about) for name, about in self.manifest["columns"].items()}
        sides = {
            n: Column(c.name, c.unit, f"From {c.file.parent.name}/{c.file.name}.")
            for n, c in self._sides[0].items()
        }
        return own | sides

    @functools.cached_property
    def bands(self) -> dict[str, Band]:
        """What each band of examples is, in their order."""
        with reading(self.folder / MANIFEST, "the manifest of an index"):
            return {name: Band(**about) for name, about in self.manifest["bands"].items()}

    @functools.cached_property
    def latents(self) -> Table:
        """Every column, a row a latent."""
        columns = {name: _listed(self.values[name]) for name in ("latent", *self.columns)}
        units = {name: about.unit for name, about in self.columns.items() if about.unit}
        return Table(columns=columns, units=units)

    def column(self, name: str) -> np.ndarray:
        """Return the numbers of a column, float64; NaN where a latent has none.

        Raises:
            UnknownNameError: there is no such column, or it holds text.
        """
        values = self.values.get(name)
        if not isinstance(values, np.ndarray):
            kind = "holds text" if values is not None else "is not there"
            numbers = [n for n, v in self.values.items() if isinstance(v, np.ndarray)]
            raise UnknownNameError(
                f"The column `{name}` {kind}; columns of numbers are {', '.join(numbers)}."
                f"{nearest(name, numbers)}"
            )
        return values

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray | list[str | None]]:
        """Every column by name: numbers (float64, NaN: none) or text (None: none); and `latent`.

        Columns of tables next to the index are there under NAME.column too.
        """
        file, names = self._open(LATENTS), list(self.manifest["columns"])
        if file.n_rows != self.d_sae:
            raise FormatError(f"{file.path} has no {self.d_sae:,} rows: it is damaged.")
        found: dict[str, np.ndarray | list[str | None]] = {
            "latent": np.arange(self.d_sae, dtype=np.float64)
        }
        with reading(file.path, "the columns of an index"):
            for name, column in file.read(names).items():
                found[name] = _column(column)
        for name, side in self._sides[0].items():
            found[name] = found[f"{side.table}.{side.name}"] = side.values
        return found

    @functools.cached_property
    def _sides(self) -> tuple[dict[str, SideColumn], list[str]]:
        own = ["latent", "label", *self.manifest["columns"]]  # the explorer adds labels
        columns, unread = side_columns(self.folder, self.d_sae)
        found, alike = named(columns, own)
        return found, [*unread, *alike]

    @property
    def notes(self) -> list[str]:
        """Which tables and columns next to it are left out, and why: a sentence each."""
        return list(self._sides[1])

    def record(self, latent: int, most: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return all that the index keeps of a latent, JSON-ready.

        Args:
            latent: 0 to d_sae - 1.
            most: examples of each band, its first; None, or a band that is not in it: all.

        Raises:
            UnknownNameError: there is no such latent.
            FormatError: a file of the index is damaged.
        """
        self._check(latent)
        with reading(self.folder, "an index"):
            return self._record(latent, most or {})

    def _record(self, latent: int, most: Mapping[str, int]) -> dict[str, Any]:
        strings: dict[str, int] = {}
        details = self._details[latent // self._group]
        at = latent % self._group
        values = {name: _plain(self.values[name][latent]) for name in self.columns}

        def named(ids: Sequence[int]) -> list[int]:
            return [strings.setdefault(split_text([self._vocab[i]])[0], len(strings)) for i in ids]

        def of(name: str) -> list[Any]:
            return details[name][at].tolist() if name in details else []

        examples = self._examples_of(latent, strings, most)
        near = zip(of("decoder"), map(_plain, of("decoder_cosines")), strict=True)
        both = zip(
            of("cofiring"), map(_plain, of("cofiring_phi")), of("cofiring_both"), strict=True
        )
        on = zip(named(of("on")), of("on_counts"), map(_plain, of("on_shares")), strict=True)
        record = {
            "latent": latent,
            "values": values,
            "strings": [],
            "examples": examples,
            "histogram": self._histogram(latent, of("histogram")),
            "logits": self._logits(details, at, named),
            "neighbours": {
                "decoder": [list(pair) for pair in near],
                "cofiring": [list(three) for three in both if three[0] >= 0],
            },
            "tokens": {
                "on": [list(three) for three in on],
                "first_share": values.get("first_share"),
                "last_share": values.get("last_share"),
                "documents": values.get("documents"),
            },
            "layers": self._layers(of),
        }
        return record | {"strings": list(strings)}

    def _histogram(self, latent: int, counts: list[int]) -> dict[str, Any] | None:
        if not any(counts):
            return None
        largest = abs(float(self.column("max")[latent]))
        edges = [_short(largest * i / len(counts)) for i in range(len(counts) + 1)]
        return {"edges": edges, "counts": counts}

    def _logits(self, details: dict[str, Values], at: int, named: Any) -> dict[str, Any] | None:
        if "promoted" not in details:
            return None
        found: dict[str, Any] = {}
        for side in ("promoted", "suppressed"):
            effects = details[f"{side}_values"][at].tolist()
            ids = named(details[side][at].tolist())
            found[side] = [[i, _short(v)] for i, v in zip(ids, effects, strict=True)]
        low, high = (float(details[f"logit_{end}"][at]) for end in ("low", "high"))
        counts = details["logit_counts"][at].tolist()
        edges = [_short(low + (high - low) * i / len(counts)) for i in range(len(counts) + 1)]
        found |= {name: _plain(details[f"logit_{name}"][at]) for name in ("mean", "std")}
        found["histogram"] = {"edges": edges, "counts": counts}
        z, means = details["set_z"][at].tolist(), details["set_means"][at].tolist()
        sets = zip(self.manifest["sets"].items(), z, means, strict=True)
        listed = [[n, _short(z), _short(m), about["tokens"]] for (n, about), z, m in sets if z == z]
        found["sets"] = sorted(listed, key=lambda one: -one[1])
        return found

    def _layers(self, of: Any) -> dict[str, Any] | None:
        if not (sites := self.manifest["layers"]):
            return None
        names = ("density", "mean", "max")
        return {"sites": sites} | {n: [_plain(v) for v in of(f"layer_{n}")] for n in names}

    def _examples_of(
        self, latent: int, strings: dict[str, int], most: Mapping[str, int]
    ) -> dict[str, list[Any]]:
        group = self._examples[latent // self._group]
        first, last = np.searchsorted(group["latent"], [latent, latent + 1])  # type: ignore[arg-type]
        found: dict[str, list[Any]] = {name: [] for name in self.manifest["bands"]}
        bands = [ORDER[band] for band in group["band"][first:last].tolist()]  # type: ignore[union-attr]
        seen: Counter[str] = Counter()
        places: list[int] = []
        for place, band in enumerate(bands, int(first)):
            seen[band] += 1
            if seen[band] <= most.get(band, len(bands)):
                places.append(place)
        tokens, rows = self._contexts
        plain = ("context", "start", "end", "peak", "doc", "value")
        columns = [group[name][places].tolist() for name in plain]  # type: ignore[index,union-attr]
        windows = [tokens[c, a:b] for c, a, b in zip(*columns[:3], strict=True)]
        shown = self._numbered(windows, strings)
        for i, (context, start, _, peak, doc, value) in enumerate(zip(*columns, strict=True)):
            band = bands[places[i] - int(first)]
            found[band].append(
                {
                    "tokens": shown[i],
                    "at": group["at"][places[i]].tolist(),
                    "acts": [_short(a) for a in group["acts"][places[i]].tolist()],
                    "peak": None if band == "negative" else peak,
                    "token": peak,
                    "value": _short(value),
                    "row": int(rows[context]),
                    "start": start,
                    "doc": doc,
                }
            )
        return found

    def latent(self, number: int) -> Latent:
        """Return a latent, which prints well and shows itself in a notebook.

        Args:
            number: 0 to d_sae - 1.

        Raises:
            UnknownNameError: there is no such latent.
            FormatError: a file of the index is damaged.
        """
        return Latent(self, number)

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model,
            "site": self.site,
            "latents": self.d_sae,
            "tokens": self.n_tokens,
            "tokens of a row": self.n_ctx,
        }
        rows = [
            (f"<code>{notebook.escaped(name)}</code>", *map(notebook.escaped, (c.unit, c.about)))
            for name, c in self.columns.items()
        ]
        columns = notebook.table(("column", "unit", "what it is"), rows)
        said = "index.latent(5), index.query('density<1e-3 sort -max limit 20')"
        return notebook.page(
            f"Index of {self.d_sae:,} latents",
            notebook.facts(facts),
            f'<div class="r n"><code>{notebook.escaped(said)}</code></div>',
            notebook.section("Columns", columns),
        )

    def _numbered(self, windows: list[np.ndarray], strings: dict[str, int]) -> list[list[int]]:
        """Return windows of token ids as numbers of strings, which are added where they are new.

        A window with a token that is no whole character is read as one text.
        """
        if not windows:
            return []
        whole, known = np.concatenate(windows), self._tokens.texts
        number = np.zeros(len(known), np.int64)  # by token: sorting the tokens takes longer
        number[whole] = 1
        ids = np.flatnonzero(number)
        texts = [known[i] for i in ids.tolist()]
        new = [t for t in dict.fromkeys(texts) if t is not None and t not in strings]
        strings.update(zip(new, range(len(strings), len(strings) + len(new)), strict=True))
        number[ids] = [-1 if t is None else strings[t] for t in texts]
        number = number[whole]
        found, begin = [], 0
        for window in windows:
            part = number[begin : begin + len(window)]
            begin += len(window)
            if (part < 0).any():
                pieces = split_text([self._vocab[i] for i in window.tolist()])
                found.append([strings.setdefault(p, len(strings)) for p in pieces])
            else:
                found.append(part.tolist())
        return found

    def contexts(self, latent: int, band: str = "top") -> Contexts:
        """Return texts in which a latent is on, with its activation on every token.

        Args:
            latent: its number.
            band: which examples: see `bands`.

        Raises:
            UnknownNameError: there is no such latent, or no such band.
        """
        record = self.record(latent)
        if band not in record["examples"]:
            raise UnknownNameError(
                f"There is no band `{band}`; there are {', '.join(self.bands)}."
                f"{nearest(band, self.bands)}"
            )
        strings, logits = record["strings"], record["logits"] or {}
        words = {
            side: [(strings[i], v) for i, v in logits.get(side, [])]
            for side in ("promoted", "suppressed")
        }
        found = []
        for one in record["examples"][band]:
            acts = [0.0] * len(one["tokens"])
            for at, act in zip(one["at"], one["acts"], strict=True):
                acts[at] = act
            found.append(one | {"tokens": [strings[i] for i in one["tokens"]], "acts": acts})
        return Contexts(latent, found, words)

    def query(self, text: str) -> Table:
        """Return the latents that a query asks for, as ``density<1e-3 sort -max limit 20``.

        Raises:
            ConfigError: it is not understood; the text names the place.
        """
        from saekit.analysis.query import select

        return select(self, text)

    @property
    def codes(self) -> "LatentStore":
        """Every code, where they were kept or an analysis asked for them.

        Raises:
            FormatError: they were not; the text says which command keeps them.
        """
        from saekit.activations.latents import LatentStore, holds_store

        if not holds_store(self.folder / CODES):
            raise FormatError(
                f"The index in {self.folder} does not keep every code. An analysis makes them "
                f"(saekit analyse NAME ...), or make it with them: {command(self.folder)} --codes"
            )
        return LatentStore.open(self.folder / CODES)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one string per token id, as a reader should see it; joined they are the text.

        Raises:
            UnknownNameError: an id is not in the vocabulary.
        """
        for i in ids:
            if not 0 <= i < len(self._vocab):
                raise UnknownNameError(f"There is no token {i}; ids are 0..{len(self._vocab) - 1}.")
        return split_text([self._vocab[i] for i in ids])

    def check_weights(self, digest: str) -> None:
        """Refuse to stand for another SAE.

        Args:
            digest: of its weights, from `saekit.hub.trained.weights_digest`.

        Raises:
            FormatError: the index was made of other weights.
        """
        check_weights(self.folder, self.manifest, digest)

    def _check(self, latent: int) -> None:
        if isinstance(latent, bool) or not 0 <= latent < self.d_sae:
            raise UnknownNameError(
                f"There is no latent {latent}; this index has latents 0..{self.d_sae - 1}."
            )

    def _open(self, name: str) -> ParquetFile:
        return ParquetFile(checked_file(self.folder, self.manifest, name))

    @functools.cached_property
    def _details(self) -> _Groups:
        return _Groups(self._open(DETAILS))

    @functools.cached_property
    def _examples(self) -> _Groups:
        return _Groups(self._open(EXAMPLES))

    @functools.cached_property
    def _contexts(self) -> tuple[np.ndarray, np.ndarray]:
        file = self._open(CONTEXTS)
        found = file.read(["row", "tokens"])
        tokens = found["tokens"]
        if not isinstance(tokens, Lists) or len(tokens.values) != file.n_rows * self.n_ctx:
            raise FormatError(f"{file.path} has rows of other than {self.n_ctx} tokens: damaged.")
        return tokens.values.reshape(file.n_rows, self.n_ctx), found["row"]  # type: ignore[return-value]

    @property
    def _vocab(self) -> list[bytes]:
        return self._tokens.raw

    @functools.cached_property
    def _tokens(self) -> _Vocabulary:
        file = self._open(VOCAB)
        key = str(self.manifest["files"][VOCAB]["sha256"])  # which the file was found to have
        if (known := _vocabularies.get(key)) is not None:
            return known
        found = file.read(["token"])["token"]
        if not isinstance(found, list) or not all(isinstance(token, bytes) for token in found):
            raise FormatError(f"{file.path} holds other things than bytes: it is damaged.")
        return _vocabularies.setdefault(key, _Vocabulary(found))


@bordered("an index")
def _manifest(folder: Path) -> dict[str, Any]:
    return read_manifest(folder)


def _column(values: Values) -> np.ndarray | list[str | None]:
    """Return the values of a column as float64, or as text."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    if isinstance(values, Lists) or not all(v is None or isinstance(v, str) for v in values):
        raise TypeError("a column holds neither numbers nor text")
    return values


def _listed(values: np.ndarray | list[str | None]) -> list[Any]:
    """Return a column as a list, of whole numbers where it holds no others."""
    if not isinstance(values, np.ndarray):
        return values
    whole = bool(((np.abs(values) < 2**53) & (values == np.floor(values))).all())
    return values.astype(np.int64).tolist() if whole and len(values) else values.tolist()


def _plain(value: Any) -> Any:
    """Return a value of a table as it stands in a record."""
    if value is None or isinstance(value, str):
        return value
    return _short(float(value))


def _short(value: float) -> float | int | None:
    """Return a number with few digits, as an int where it is whole; None where it is none."""
    if not math.isfinite(value):
        return None
    near = float(f"{value:.{DIGITS}g}") if abs(value) < 1e15 else value
    if value.is_integer() and abs(value) < 1e15:
        return int(value)
    return near
