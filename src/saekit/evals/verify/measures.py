"""What is measured of one way of using an SAE: error, sparsity and how its prediction is off."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.rules import FittedRule, TokenRule, fit
from saekit.evals import _predictions
from saekit.evals._replacing import logits_in_parts, put
from saekit.evals.verify.ways import Way
from saekit.metrics.base import Batch, Sums, added
from saekit.metrics.fvu import FVU
from saekit.metrics.l0 import L0
from saekit.models.base import LanguageModel, refuse_edits
from saekit.models.sites import Site

LEAST_WORTH = 4.0  # standard errors that a site's worth must be above 0 to be divided by
ACT_BYTES = 2**28  # of activations read at a time
_METRICS = {"fvu": FVU(), "l0": L0()}


class Measured(NamedTuple):
    """One way of using an SAE, over the tokens that count.

    Args:
        n: tokens.
        fvu: share of the variance left unexplained; None: the site does not vary.
        l0: latents on per token.
        gain: what its prediction is best multiplied by (about its mean).
        offset: share of the variance that adding the mean error would explain.
        size: mean norm of what it reads, act units.
    """

    n: int
    fvu: float | None
    l0: float | None
    gain: float | None
    offset: float | None
    size: float

    @property
    def error(self) -> float:
        """The FVU; infinite where there is none."""
        return math.inf if self.fvu is None or math.isnan(self.fvu) else self.fvu


class Recovered(NamedTuple):
    """The share of the loss that a site is worth and that a way of using an SAE keeps.

    (zero - spliced) / (zero - clean): 1 where predictions are as good as before, 0 where they are
    as bad as with the site at 0.

    Args:
        share: None where the site is worth nothing that can be told from 0.
        error: its standard error over rows, by the jackknife.
        worth: zero - clean, nats/token.
        worth_error: its standard error.
    """

    share: float | None
    error: float
    worth: float
    worth_error: float


def recovered_of(losses: Mapping[str, Float[Tensor, "rows"]], scored: int) -> Recovered:
    """Return the recovered share from the summed losses of each row."""
    clean, spliced, zero = losses["clean"], losses["spliced"], losses["zero"]
    n = len(clean)
    gap, kept = zero - clean, zero - spliced
    worth = float(gap.sum()) / max(scored, 1)
    worth_error = float(gap.std() * n**0.5) / max(scored, 1) if n > 1 else math.inf
    if not worth > LEAST_WORTH * worth_error:
        return Recovered(None, math.inf, worth, worth_error)
    share = float(kept.sum() / gap.sum())
    without = (kept.sum() - kept) / (gap.sum() - gap)
    error = float(((without - without.mean()).square().sum() * (n - 1) / n).sqrt())
    return Recovered(share, error, worth, worth_error)


class Bench:
    """Rows of text, and what a language model's sites hold on them.

    Args:
        lm: the language model.
        rows: token ids without BOS, ``[n, n_ctx]``.
        rules: which tokens count at the SAE's own sites, by site; of others it is fitted here.
    """

    def __init__(
        self, lm: LanguageModel, rows: Int[Tensor, "n n_ctx"], rules: Mapping[str, FittedRule]
    ):
        refuse_edits(lm)
        self.lm, self._plain = lm, rows
        self._rules = dict(rules)
        self._special = sorted(lm.tokenizer.special_ids)
        self._clean: dict[tuple[bool, int], list[tuple[float, int]]] = {}

    def tokens(self, bos: bool) -> Int[Tensor, "n n_ctx"]:
        """Return the rows, with BOS in front of each where asked."""
        if not bos:
            return self._plain
        first = torch.full((len(self._plain), 1), self.lm.tokenizer.bos_id or 0)
        return torch.cat([first, self._plain], 1)

    def measure(self, ways: Sequence[Way], n_rows: int) -> list[Measured]:
        """Measure ways side by side on the first rows; each place is read once for all of them."""
        found: list[Measured | None] = [None] * len(ways)
        for bos in sorted({way.bos for way in ways}):
            mine = [i for i, way in enumerate(ways) if way.bos == bos]
            got = self._measure([ways[i] for i in mine], bos, n_rows)
            for i, measured in zip(mine, got, strict=True):
                found[i] = measured
        return [m for m in found if m is not None]

    def _measure(self, ways: list[Way], bos: bool, n_rows: int) -> Iterable[Measured]:
        sites = list(dict.fromkeys(s for way in ways for s in (way.read, way.write)))
        tokens = self.tokens(bos)[:n_rows]
        row = tokens.shape[1] * 4 * sum(self.lm.width(s) for s in sites)
        size = max(1, ACT_BYTES // row)
        sums: list[Sums] = [{} for _ in ways]
        for first in range(0, len(tokens), size):
            part = tokens[first : first + size]
            acts = self.lm.read(part, sites)
            for i, way in enumerate(ways):
                new = _sums(way, acts, self.kept(way, part, acts))
                sums[i] = added(sums[i], new) if sums[i] else new
        return [_measured(one) for one in sums]

    def kept(
        self, way: Way, tokens: Int[Tensor, "n n_ctx"], acts: Mapping[Site, Tensor]
    ) -> Bool[Tensor, "n n_ctx"]:
        """Return which tokens count at both of its sites."""
        masks = [
            self._rule(site, tokens, acts[site]).keep(tokens, acts[site])
            for site in dict.fromkeys((way.read, way.write))
        ]
        return torch.stack(masks).all(0)

    def _rule(self, site: Site, tokens: Tensor, acts: Tensor) -> FittedRule:
        if str(site) not in self._rules:
            self._rules[str(site)] = fit(TokenRule(), self._special, tokens, acts)
        return self._rules[str(site)]

    def recovered(self, ways: Sequence[Way], n_rows: int) -> list["Recovered"]:
        """Return of each way the share of the loss that the site is worth and it keeps."""
        return [self._recovered(way, n_rows) for way in ways]

    def _recovered(self, way: Way, n_rows: int) -> "Recovered":
        clean = self._clean_losses(way.bos, n_rows)
        sums: dict[str, list[float]] = {"clean": [loss for loss, _ in clean]}
        sums |= {"spliced": [], "zero": []}
        for row in self.tokens(way.bos)[:n_rows].split(1):
            acts = self.lm.read(row, list(dict.fromkeys((way.read, way.write))))
            kept = self.kept(way, row, acts)
            y = acts[way.write][kept].float()
            _, y_hat = way.run(acts[way.read][kept].float())
            if way.centred:
                y_hat = y_hat + y.mean(-1, keepdim=True)
            at = {
                "spliced": {way.write: put(kept, y_hat)},
                "zero": {way.write: put(kept, y_hat.new_zeros(()))},
            }
            for name, replace in at.items():
                sums[name].append(self._loss(row, replace)[0])
        scored = sum(n for _, n in clean)
        values = {name: torch.tensor(v, dtype=torch.float64) for name, v in sums.items()}
        return recovered_of(values, scored)

    def _clean_losses(self, bos: bool, n_rows: int) -> list[tuple[float, int]]:
        """Return the loss of each row with nothing replaced, which no way changes: made once."""
        if (bos, n_rows) not in self._clean:
            rows = self.tokens(bos)[:n_rows].split(1)
            self._clean[bos, n_rows] = [self._loss(row, {}) for row in rows]
        return self._clean[bos, n_rows]

    def _loss(self, tokens: Tensor, replace: Mapping[Site, Any]) -> tuple[float, int]:
        """Return the sum of next-token losses, nats, and their number."""
        final = self.lm.final(tokens, replace)
        tokens = tokens.to(final.device)
        scored = _predictions.scored(tokens, tuple(self._special))
        total, n = 0.0, 0
        for targets, (logits,) in logits_in_parts(self.lm, tokens, scored, final):
            total += float(_predictions.losses(logits, targets).double().sum())
            n += len(targets)
        return total, n


@torch.no_grad()
def _sums(way: Way, acts: Mapping[Site, Tensor], kept: Tensor) -> Sums:
    device = next(way.sae.parameters()).device
    x = acts[way.read][kept].to(device, torch.float32)
    y = way.target(acts[way.write][kept].to(device, torch.float32))
    codes, y_hat = way.run(x)
    batch = Batch(y, y_hat, codes)
    sums = {f"{n}/{k}": v for n, m in _METRICS.items() for k, v in m.sums(batch).items()}
    double, exact = y_hat.double(), y.double()
    return sums | {
        "n": torch.tensor(float(len(y)), dtype=torch.float64),
        "p": double.sum(0).cpu(),
        "y": exact.sum(0).cpu(),
        "pp": double.square().sum().cpu(),
        "py": (double * exact).sum().cpu(),
        "norm": x.double().norm(dim=-1).sum().cpu(),
    }


def _measured(sums: Sums) -> Measured:
    n = float(sums["n"])
    if not n:
        return Measured(0, None, None, None, None, 0.0)
    values = {
        name: metric.compute(
            {key.partition("/")[2]: v for key, v in sums.items() if key.startswith(f"{name}/")}
        )
        for name, metric in _METRICS.items()
    }
    mean_p, mean_y = sums["p"] / n, sums["y"] / n
    spread = float(sums["pp"] / n - mean_p.square().sum())
    shared = float(sums["py"] / n - (mean_p * mean_y).sum())
    variance = float(sums["fvu/yy"].sum() / n - mean_y.square().sum())
    offset = float((mean_p - mean_y).square().sum())
    return Measured(
        int(n),
        values["fvu"],
        values["l0"],
        shared / spread if spread > 0 else None,
        offset / variance if variance > 0 else None,
        float(sums["norm"]) / n,
    )
