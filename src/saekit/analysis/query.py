"""The query language of latents: which, in which order, how many.

    density<1e-3 and not token_set="digits" sort -max, latent limit 20

A query has a condition, an order and a limit, each of which may be missing. A condition compares
columns with numbers (``<  <=  >  >=  =  !=``) or with text in quotes (``=  !=  has``: contains,
small and capital letters alike), or asks for latents without a value (``missing NAME``), joined by
``and``, ``or``, ``not`` and brackets. A latent without a value is in no comparison. A minus before
a name sorts downwards; latents without a value come last either way.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from saekit.core.errors import ConfigError, nearest
from saekit.core.result import Table

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

MOST_CHARACTERS, MOST_DEPTH = 4000, 50
SHOWN = ("density", "max", "token", "promotes", "token_set")  # beside the columns that are named
WORDS = ("and", "or", "not", "has", "missing", "sort", "limit")
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<quoted>`[^`]+`)
  | (?P<number>[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<name>[^\W\d][\w.]*)
  | (?P<sign><=|>=|!=|==|[<>=(),-])
    )""",
    re.VERBOSE,
)
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "==": np.equal,
    "!=": np.not_equal,
}

Columns = Mapping[str, np.ndarray | Sequence[str | None]]  # numbers with NaN, or text with None
Condition = Callable[[Columns, int], np.ndarray]  # columns and latents: which match


class _Word(NamedTuple):
    kind: str  # text, name, number, sign, or end
    text: str
    at: int  # character, from 0


@dataclass(frozen=True)
class Query:
    """What a text asks for; made by `parse`.

    Args:
        where: which latents; None: all.
        order: columns to sort by, the first before the others, and whether downwards.
        limit: how many at most; None: all.
        names: the columns that are named, in their order.
    """

    where: Condition | None
    order: tuple[tuple[str, bool], ...]
    limit: int | None
    names: tuple[str, ...] = field(default=())

    def matches(self, columns: Columns, n: int) -> np.ndarray:
        """Return the numbers of all latents that match, in order, without the limit.

        Args:
            columns: numbers (float64, NaN: none) or text (None: none), by name.
            n: how many latents there are.
        """
        found = np.arange(n) if self.where is None else np.flatnonzero(self.where(columns, n))
        for name, down in reversed(self.order):
            keys = _keys(columns[name], found, down)
            found = found[np.argsort(keys, kind="stable")]
        return found


def parse(text: str, columns: Columns) -> Query:
    """Read a query.

    Args:
        text: the query; empty: all latents.
        columns: that may be named.

    Raises:
        ConfigError: it is not understood; the text names the place and what is allowed.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"A query has {MOST_CHARACTERS:,} characters at most; got {len(text):,}.")
    return _Parser(text, columns).query()


def select(
    index: "Index", text: str, *, more: Columns | None = None, columns: Sequence[str] | None = None
) -> Table:
    """Return the latents of an index that a query asks for, in its order.

    Args:
        index: the index.
        text: the query.
        more: further columns by name, as of labels.
        columns: which to return; None: those that the query names and a few.

    Raises:
        ConfigError: the query is not understood, or there is no such column.
    """
    known = {**index.values, **(more or {})}
    try:
        query = parse(text, known)
    except ConfigError as error:  # which may be of a column whose table cannot be read
        raise ConfigError(" ".join([str(error), *index.notes])) from error
    rows = query.matches(known, index.d_sae)[: query.limit]
    names = [*query.names, *SHOWN] if columns is None else list(columns)
    if columns is not None and (lacking := [n for n in names if n not in known]):
        raise ConfigError(
            f"There is no column `{lacking[0]}`; there are {', '.join(known)}."
            f"{nearest(lacking[0], known)}{''.join(f' {note}' for note in index.notes)}"
        )
    shown = [name for name in dict.fromkeys(["latent", *names]) if name in known]
    units = {n: c.unit for n, c in index.columns.items() if c.unit and n in shown}
    return Table(columns={name: _taken(known[name], rows) for name in shown}, units=units)


def query(index: "Index | Path | str", text: str, **how: Any) -> Table:
    """Return the latents that a query asks for, as ``density<1e-3 sort -max limit 20``.

    Args:
        index: the index, its folder, or that of the run it was made in.
        text: the query; see docs/explorer.md.
        how: see `select`.

    Raises:
        ConfigError: the query is not understood.
        FormatError: there is no index, or a file of it is damaged.
    """
    from saekit.analysis.analyse import find_index

    return select(find_index(index), text, **how)


def _taken(values: Any, rows: np.ndarray) -> list[Any]:
    if not isinstance(values, np.ndarray):
        return [values[i] for i in rows.tolist()]
    found = values[rows]
    whole = found.dtype.kind in "iu" or (len(found) and bool((found == np.floor(found)).all()))
    return found.astype(np.int64).tolist() if whole else found.tolist()


def _keys(values: Any, rows: np.ndarray, down: bool) -> np.ndarray:
    """Return numbers that sort as the values of some latents do; none at the end."""
    if isinstance(values, np.ndarray):
        found = values[rows].astype(np.float64)
        return -found if down else found  # NaN comes last
    texts = [values[i] for i in rows.tolist()]
    place = {t: float(i) for i, t in enumerate(sorted({t for t in texts if t is not None}))}
    sign = -1.0 if down else 1.0
    return np.array([np.nan if t is None else sign * place[t] for t in texts], dtype=np.float64)


class _Parser:
    """Reads one query, from left to right."""

    def __init__(self, text: str, columns: Columns):
        self.text, self.columns = text, columns
        self.words = list(self._split())
        self.at = 0
        self.depth = 0
        self.names: list[str] = []

    def _split(self):
        at = 0
        while self.text[at:].strip():
            match = _TOKEN.match(self.text, at)
            if match is None or match.lastgroup is None:
                begin = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                self._refuse(_Word("sign", self.text[begin], begin), "no word begins so")
            kind = match.lastgroup
            word = match.group(kind)
            if kind == "quoted":
                kind, word = "column", word[1:-1]
            yield _Word(kind, word, match.start(match.lastgroup))
            at = match.end()
        yield _Word("end", "", len(self.text))

    @property
    def word(self) -> _Word:
        return self.words[self.at]

    def query(self) -> Query:
        where = None
        if self.word.kind != "end" and self.word.text not in ("sort", "limit"):
            where = self._either()
        order: tuple[tuple[str, bool], ...] = ()
        limit = None
        while self.word.kind != "end":
            if self._took("sort") and not order:
                order = self._order()
            elif self._took("limit") and limit is None:
                limit = self._limit()
            else:
                self._refuse(
                    self.word, "expected and, or, sort or limit, each of sort and limit once"
                )
        return Query(where, order, limit, tuple(dict.fromkeys(self.names)))

    def _either(self) -> Condition:
        left = self._both()
        while self._took("or"):
            left = _joined(left, self._both(), np.logical_or)
        return left

    def _both(self) -> Condition:
        left = self._one()
        while self._took("and"):
            left = _joined(left, self._one(), np.logical_and)
        return left

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            self._refuse(self.word, f"brackets and not are nested {MOST_DEPTH} deep at most")
        try:
            if self._took("not"):
                inner = self._one()
                return lambda columns, n: ~inner(columns, n)
            if self._took("("):
                inner = self._either()
                if not self._took(")"):
                    self._refuse(self.word, "expected )")
                return inner
            if self._took("missing"):
                name = self._column()
                return lambda columns, n: _missing(columns[name])
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Condition:
        name = self._column()
        sign = self._next()
        is_text = not isinstance(self.columns[name], np.ndarray)
        if sign.text == "has" and sign.kind == "name":
            if not is_text:
                self._refuse(sign, f"`{name}` holds numbers; `has` is of text")
            part = self._text().casefold()
            return lambda columns, n: np.fromiter(
                (t is not None and part in t.casefold() for t in columns[name]), bool, n
            )
        if sign.kind != "sign" or sign.text not in _SIGNS:
            self._refuse(sign, f"expected one of {' '.join(_SIGNS)} has after `{name}`")
        if is_text:
            if sign.text not in ("=", "==", "!="):
                self._refuse(sign, f"`{name}` holds text; it is compared with = and != and has")
            wanted, same = self._text(), sign.text != "!="
            return lambda columns, n: np.fromiter(
                (t is not None and (t == wanted) == same for t in columns[name]), bool, n
            )
        number, compare = self._number(), _SIGNS[sign.text]
        return lambda columns, n: _compared(compare, columns[name], number)

    def _order(self) -> tuple[tuple[str, bool], ...]:
        found = []
        while True:
            down = self._took("-")
            found.append((self._column(), down))
            if not self._took(","):
                return tuple(found)

    def _limit(self) -> int:
        word = self._next()
        if word.kind != "number" or not re.fullmatch(r"\d[\d_]*", word.text):
            self._refuse(word, "expected a whole number after limit")
        return int(word.text)

    def _column(self) -> str:
        word = self._next()
        if word.kind not in ("name", "column") or (word.kind == "name" and word.text in WORDS):
            self._refuse(word, "expected the name of a column")
        if word.text not in self.columns:
            names = [str(name) for name in self.columns]
            self._refuse(
                word, f"there is no such column.{nearest(word.text, names)} There are", names
            )
        self.names.append(word.text)
        return word.text

    def _text(self) -> str:
        word = self._next()
        if word.kind != "text":
            self._refuse(word, 'expected text in quotes, as "dog"')
        return re.sub(r"\\(.)", _unescaped, word.text[1:-1], flags=re.DOTALL)

    def _number(self) -> float:
        minus = self._took("-")
        word = self._next()
        if word.kind != "number":
            self._refuse(word, "expected a number")
        number = float(word.text.replace("_", ""))
        return -number if minus else number

    def _took(self, text: str) -> bool:
        """Step over a word or sign, if it is the next."""
        word = self.word
        if word.kind in ("name", "sign") and word.text == text:
            self.at += 1
            return True
        return False

    def _next(self) -> _Word:
        word = self.word
        self.at += word.kind != "end"
        return word

    def _refuse(self, word: _Word, why: str, listed: Sequence[str] = ()) -> NoReturn:
        place = "its end" if word.kind == "end" else f"`{word.text}` (character {word.at + 1})"
        more = f" {', '.join(listed)}" if listed else ""
        raise ConfigError(f"The query is not understood at {place}: {why}{more}.")


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1])


def _joined(left: Condition, right: Condition, how: Callable[[Any, Any], Any]) -> Condition:
    return lambda columns, n: how(left(columns, n), right(columns, n))


def _compared(
    compare: Callable[[Any, Any], Any], values: np.ndarray | Any, number: float
) -> np.ndarray:
    """Compare numbers; NaN is in no comparison, with != neither."""
    return compare(values, number) & ~np.isnan(values)


def _missing(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return np.isnan(values)
    return np.fromiter((t is None for t in values), bool, len(values))
