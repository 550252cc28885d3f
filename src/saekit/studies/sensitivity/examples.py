"""Examples: short texts on which each latent fires, found while a corpus streams by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.analysis.examples import shuffled
from saekit.core.codes import Codes
from saekit.core.config import Config, setting
from saekit.core.seeds import derive
from saekit.data.tokenise import Rows

ROWS_OF_TEXT = 2  # random texts are drawn from rows that stream by, so many rows for each


@dataclass(frozen=True, kw_only=True)
class ExampleConfig(Config):
    """Which texts show what a latent responds to.

    A text is the token where the latent peaks and `around` tokens on each side, all of one
    document. In a row the peaks of a latent are its activations from the largest down, each
    more than `around` tokens from those before it. ``top`` texts are at the largest peaks;
    ``weighted`` ones are drawn from the other peaks without replacement, with a chance
    proportional to the squared activation. Of both, `spare` are held out: they are never shown to
    the generator.

    Args:
        way: "saekit", or "published": peaks and draws of the published pipeline, one for one, on
            a corpus that fits in memory; none of the other settings but `top`, `weighted` and
            `random` matter then, and there are no held-out texts and no negatives.
        around: tokens on each side of the peak.
        top: strongest texts that the generator is shown.
        weighted: drawn texts that it is shown.
        spare: texts of each kind that it is not shown.
        negatives: texts from the same documents on which the latent is off.
        random: texts from anywhere, the same for all latents.
        least_count: latents that are on at fewer tokens than this and one more are not measured.

    Source:
        Tian, Tian, Hu 2025, arXiv:2509.23717; weighted sampling in one pass: Efraimidis and
        Spirakis 2006. Differs: no text crosses a document; weighted texts never overlap top ones;
        the spare ones are used.
    """

    name: ClassVar[str] = "examples"
    way: Literal["saekit", "published"] = "saekit"
    around: int = setting(10, least=1, unit="tokens")
    top: int = setting(10, least=1)
    weighted: int = setting(5, least=0)
    spare: int = setting(2, least=0)
    negatives: int = setting(10, least=0)
    random: int = setting(200, least=10)
    least_count: int = setting(15, least=0, unit="tokens")


class Snippet(NamedTuple):
    """A text and what a latent does on it.

    The token ids are kept, so nothing of the text is lost.
    """

    tokens: list[int]
    acts: list[float]  # of the latent on each, act units
    peak: int  # index of the peak; -1 where the latent is off
    row: int
    pos: int  # of the first token, in the row
    doc: int

    @property
    def largest(self) -> float:
        """Largest activation in the text."""
        return max(self.acts, default=0.0)


class LatentExamples(NamedTuple):
    """The texts of one latent."""

    shown: list[Snippet]  # to the generator: top and weighted, the strongest first
    held_out: list[Snippet]
    negatives: list[Snippet]  # same documents, latent off
    count: int  # tokens it is on for
    largest: float  # activation in the corpus


class _Pool(NamedTuple):
    """The best peaks so far of every latent, sorted by latent, then from the best."""

    latent: Int[Tensor, "m"]  # place in the list of latents
    score: Float[Tensor, "m"]  # larger is better
    value: Float[Tensor, "m"]
    row: Int[Tensor, "m"]
    pos: Int[Tensor, "m"]


@final
class Collector:
    """Takes in rows and their codes, and keeps the texts of some latents.

    Memory: O(latents x kept): whole rows are kept only for peaks that are.

    Args:
        cfg: which texts.
        latents: numbers of the latents, each once.
        d_sae: how many there are.
        seed: of what is drawn.
    """

    def __init__(self, cfg: ExampleConfig, latents: Sequence[int], d_sae: int, seed: int):
        self.cfg, self.latents, self.seed = cfg, list(latents), seed
        self._place = torch.full((d_sae,), -1, dtype=torch.int64)
        self._place[torch.tensor(self.latents, dtype=torch.int64)] = torch.arange(len(self.latents))
        none = torch.empty(0, dtype=torch.int64)
        self._top = self._drawn = _Pool(none, none.double(), none.float(), none, none)
        self.counts = torch.zeros(len(self.latents), dtype=torch.int64)
        self.largest = torch.zeros(len(self.latents))
        self._rows: dict[int, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = {}
        self.n_tokens = self.n_entries = 0  # tokens that were coded, and latents on at them

    def add(self, rows: Rows, row: Int[Tensor, "n"], pos: Int[Tensor, "n"], codes: Codes) -> None:
        """Take in some rows, the places of their tokens that count, and the codes of these."""
        self.n_tokens += len(row)
        live = codes.detach().live()
        self.n_entries += len(live.values)
        token = live.rows().cpu()
        latent = self._place[live.latents.cpu()]
        mine = latent >= 0
        latent, value = latent[mine], live.values.float().cpu()[mine]
        at_row, at_pos = row.cpu()[token[mine]], pos.cpu()[token[mine]]
        self.counts += torch.bincount(latent, minlength=len(self.latents))
        self.largest.scatter_reduce_(0, latent, value, "amax")
        inside = (value > 0) & self._whole(rows, at_row, at_pos)
        found = _peaks(
            latent[inside], value[inside], at_row[inside], at_pos[inside], self.cfg.around
        )
        n_top = self.cfg.top + self.cfg.spare
        n_drawn = self.cfg.weighted + self.cfg.spare
        self._top = _best([self._top, found], n_top)
        weight = found.value.double().square()
        drawn = found._replace(score=_uniform(self.seed, found).log() / weight)
        # The strongest peaks cannot be told apart from the rest before the end; as many more are
        # kept as may turn out to be among them.
        self._drawn = _best([self._drawn, drawn], n_drawn + n_top)
        self._keep_rows(rows, latent, value, at_row, at_pos)

    def _whole(self, rows: Rows, row: Tensor, pos: Tensor) -> Tensor:
        """Return which places have a whole text around them, all of one document."""
        a, n = self.cfg.around, rows.tokens.shape[1]
        fits = (pos >= a) & (pos < n - a)
        docs, at = rows.doc_ids, row - rows.first_row
        first, last = (pos - a).clamp(min=0), (pos + a).clamp(max=n - 1)
        # A document is one stretch of a row, so its ends tell.
        return fits & (docs[at, first] == docs[at, last])

    def _keep_rows(self, rows: Rows, *entries: Tensor) -> None:
        """Keep the rows that a kept peak lies in, with the activations of our latents on them."""
        wanted = torch.cat([self._top.row, self._drawn.row]).unique()
        for known in self._rows.keys() - set(wanted.tolist()):
            del self._rows[known]
        latent, value, at_row, at_pos = entries
        last = rows.first_row + len(rows.tokens)
        for number in wanted[(wanted >= rows.first_row) & (wanted < last)].tolist():
            here = at_row == number
            i = number - rows.first_row
            self._rows[number] = (
                rows.tokens[i].clone(),
                rows.doc_ids[i].clone(),
                latent[here],
                value[here],
                at_pos[here],
            )

    def measured(self) -> list[int]:
        """Return the latents that are on often enough to be measured."""
        return [
            i
            for i, n in zip(self.latents, self.counts.tolist(), strict=True)
            if n > self.cfg.least_count
        ]

    def of(self, latent: int) -> LatentExamples:
        """Return the texts of a latent."""
        place = int(self._place[latent])
        top = self._snippets(self._top, place)
        shown_top = {(s.row, s.pos) for s in top}
        drawn = [s for s in self._snippets(self._drawn, place) if (s.row, s.pos) not in shown_top]
        drawn = drawn[: self.cfg.weighted + self.cfg.spare]
        shown, held_out = [], []
        for kind, snippets, n in (
            ("top", top, self.cfg.top),
            ("weighted", drawn, self.cfg.weighted),
        ):
            # Which are held out is drawn, so that they are like those that are shown.
            chance = torch.Generator().manual_seed(derive(self.seed, kind, latent))
            order = torch.randperm(len(snippets), generator=chance).tolist()
            n_shown = (
                n
                if len(snippets) >= n + self.cfg.spare
                else len(snippets) - min(self.cfg.spare, len(snippets) // 4)
            )
            shown += [snippets[i] for i in sorted(order[:n_shown])]
            held_out += [snippets[i] for i in sorted(order[n_shown:])]
        return LatentExamples(
            shown=sorted(shown, key=lambda s: -s.largest),
            held_out=held_out,
            negatives=self._negatives(place, [*top, *drawn]),
            count=int(self.counts[place]),
            largest=float(self.largest[place]),
        )

    def _snippets(self, pool: _Pool, place: int) -> list[Snippet]:
        here = (pool.latent == place).nonzero()[:, 0].tolist()
        return [self._cut(int(pool.row[i]), int(pool.pos[i]), place) for i in here]

    def _cut(self, row: int, pos: int, place: int, *, peak: bool = True) -> Snippet:
        tokens, docs, *_ = self._rows[row]
        a = self.cfg.around
        window = slice(pos - a, pos + a + 1)
        return Snippet(
            tokens=tokens[window].tolist(),
            acts=self._acts(row, place)[window].tolist(),
            peak=a if peak else -1,
            row=row,
            pos=pos - a,
            doc=int(docs[pos]),
        )

    def _acts(self, row: int, place: int) -> Tensor:
        tokens, _, latent, value, at = self._rows[row]
        out = torch.zeros(len(tokens))
        mine = latent == place
        out[at[mine]] = value[mine]
        return out

    def _negatives(self, place: int, examples: Sequence[Snippet]) -> list[Snippet]:
        """Return texts of the examples' documents on which the latent is off, the farthest first.

        One of each row: the window without an activation that is farthest from all of them.
        """
        a, found = self.cfg.around, []
        for row in dict.fromkeys(s.row for s in examples):
            _, docs, *_ = self._rows[row]
            on = (self._acts(row, place) != 0).nonzero()[:, 0]
            n = len(docs)
            centre = torch.arange(a, n - a)
            if not len(centre):
                continue
            mine = {s.doc for s in examples if s.row == row}
            same = (docs[centre - a] == docs[centre + a]) & torch.isin(
                docs[centre], torch.tensor(sorted(mine))
            )
            gap = (centre[:, None] - on).abs().amin(1) if len(on) else torch.full_like(centre, n)
            fits = same & (gap > a)
            if bool(fits.any()):
                best = int(gap.where(fits, -1).argmax())
                found.append((int(gap[best]), self._cut(row, int(centre[best]), place, peak=False)))
        found.sort(key=lambda pair: -pair[0])
        return [snippet for _, snippet in found[: self.cfg.negatives]]


@final
class RandomTexts:
    """Texts of the same length from anywhere in a corpus: one place of each row, a fixed share.

    Args:
        cfg: their number and length.
        seed: of the draw.
    """

    def __init__(self, cfg: ExampleConfig, seed: int):
        self.cfg, self.seed = cfg, seed
        self._best: list[tuple[float, Snippet]] = []

    def add(self, rows: Rows, special: frozenset[int]) -> None:
        """Take in some rows."""
        a, n_ctx = self.cfg.around, rows.tokens.shape[1]
        if n_ctx <= 2 * a:
            return
        for i, (tokens, docs) in enumerate(zip(rows.tokens, rows.doc_ids, strict=True)):
            row = rows.first_row + i
            chance = torch.Generator().manual_seed(derive(self.seed, "random", row))
            key = float(torch.rand(1, generator=chance))
            if len(self._best) == self.cfg.random and key >= self._best[-1][0]:
                continue
            centre = int(torch.randint(a, n_ctx - a, (1,), generator=chance))
            ids = tokens[centre - a : centre + a + 1].tolist()
            if docs[centre - a] != docs[centre + a] or special & set(ids):
                continue
            text = Snippet(ids, [0.0] * len(ids), -1, row, centre - a, int(docs[centre]))
            self._best = sorted([*self._best, (key, text)], key=lambda b: b[0])[: self.cfg.random]

    def texts(self) -> list[Snippet]:
        """Return the texts, in an order that says nothing."""
        return [text for _, text in self._best]


def _peaks(latent: Tensor, value: Tensor, row: Tensor, pos: Tensor, around: int) -> _Pool:
    """Return each row's peaks of each latent, none within `around` tokens of a larger one."""
    order = np.lexsort((pos.numpy(), -value.numpy(), row.numpy(), latent.numpy()))
    index = torch.from_numpy(order)
    latent, value, row, pos = latent[index], value[index], row[index], pos[index]
    n = len(latent)
    new = torch.ones(n, dtype=torch.bool)
    new[1:] = (latent[1:] != latent[:-1]) | (row[1:] != row[:-1])
    group = new.cumsum(0) - 1
    left, taken = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    while bool(left.any()):
        places = left.nonzero()[:, 0]
        first = torch.ones(len(places), dtype=torch.bool)
        first[1:] = group[places[1:]] != group[places[:-1]]
        best = places[first]
        taken[best] = True
        peak = torch.full((int(group[-1]) + 1,), -(2**31), dtype=torch.int64)
        peak[group[best]] = pos[best]
        left &= (pos - peak[group]).abs() > around
    return _Pool(latent[taken], value[taken].double(), value[taken], row[taken], pos[taken])


def _best(pools: Sequence[_Pool], n: int) -> _Pool:
    """Return the `n` best of each latent; among equals the earlier place wins."""
    columns = [torch.cat(column) for column in zip(*pools, strict=True)]
    latent, score, value, row, pos = columns
    keys = (pos.numpy(), row.numpy(), -score.numpy(), latent.numpy())
    order = torch.from_numpy(np.lexsort(keys))
    sorted_latent = latent[order]
    first = torch.searchsorted(sorted_latent, sorted_latent)
    kept = order[torch.arange(len(order)) - first < n]
    return _Pool(latent[kept], score[kept], value[kept], row[kept], pos[kept])


def _uniform(seed: int, found: _Pool) -> Float[Tensor, "m"]:
    """Return a number in (0, 1) for each peak that depends on its place and the seed alone."""
    places = (column.numpy() for column in (found.latent, found.row, found.pos))
    drawn = shuffled(np.full(len(found.row), seed % 2**63), *places)
    return torch.from_numpy(drawn).clamp(min=2.0**-54)
