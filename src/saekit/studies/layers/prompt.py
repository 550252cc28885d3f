"""PromptReading: what an SAE over layers makes of one prompt, as small JSON-ready answers."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.data.tokenise import Rows
from saekit.hub.shared import SharedSAE
from saekit.metrics.base import Batch
from saekit.metrics.fvu import FVU
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site, parse_site
from saekit.studies.layers.distributions import distribution
from saekit.studies.layers.examples import Example
from saekit.studies.layers.lens import Lens
from saekit.studies.layers.sums import LayerCodes, LayerSums
from saekit.studies.layers.survey import codes_of

Unit = Literal["direction", "norm", "act"]


class Steering(NamedTuple):
    """A latent's direction added to the residual stream.

    Args:
        site: where; layer 0 is a layer.
        latent: which.
        factor: how much, of either sign.
        unit: of `factor`: "direction", the latent's direction at length 1, in act units;
            "norm", the same times the root mean square norm of the prompt's activations there;
            "act", act units of the latent's code at the site, as `saekit.steer` has them in `add`.
        positions: where in the prompt; all where None.
    """

    site: str
    latent: int
    factor: float
    unit: Unit = "norm"
    positions: tuple[int, ...] | None = None


class PromptReading:
    """A prompt, its tokens, and the active latents of each at every layer.

    Latents are read where the SAE's rule counts a token: special tokens and massive norms are
    shown, marked and have none. Answers name latents, layers and positions and leave out what
    is 0, so that none grows with d_sae.

    Args:
        shared: the SAE and its layers.
        lm: the model it was trained on.
        prompt: text; BOS is put before it where the SAE was trained with one.
        lens: a change of basis that the SAE was trained in.

    Raises:
        DataError: the prompt has no token, or activations are not finite.
        ConfigError: it is longer than the model reads.
        ShapeError: the SAE does not fit the model.
    """

    def __init__(
        self, shared: SharedSAE, lm: LanguageModel, prompt: str, *, lens: Lens | None = None
    ):
        shared.check(lm)
        ids = lm.tokenizer.encode([prompt])[0]
        if not ids:
            raise DataError("The prompt is empty: it has no token. Give at least one character.")
        bos = shared.card.bos_id(lm.tokenizer)
        self.ids = ids if bos is None else [bos, *ids]
        if len(self.ids) > lm.n_ctx_max:
            raise ConfigError(
                f"The prompt has {len(self.ids)} tokens; {lm.name} reads {lm.n_ctx_max} at most. "
                f"Shorten it."
            )
        self.shared, self.lm, self.prompt, self.lens = shared, lm, prompt, lens
        self.tokens = torch.tensor([self.ids])
        rows = Rows(self.tokens, torch.zeros_like(self.tokens), 0)
        self.codes: dict[Site, LayerCodes] = {}
        self.kept: dict[Site, Tensor] = {}
        self._y: dict[Site, Tensor] = {}
        for site, (place, latent, strength, n), keep in codes_of(shared, lm, rows, lens):
            self.codes[site] = LayerCodes(place.cpu(), latent.cpu(), strength.cpu(), n)
            self.kept[site] = keep[0].cpu()
        self.sums = LayerSums(shared.numbers, shared.d_sae)
        counted = torch.stack(list(self.kept.values())).any(0)
        self.sums.add(list(self.codes.values()), len(self.ids), int(counted.sum()))

    def site(self, name: str) -> Site:
        """Return one of the layers by name.

        Raises:
            ConfigError: the SAE does not read it.
        """
        site = parse_site(name)
        if site not in self.codes:
            raise ConfigError(
                f"The SAE reads {', '.join(map(str, self.codes))}; got {name}. Name one of those."
            )
        return site

    def check_latent(self, latent: int) -> int:
        """Return a latent if there is one of this number.

        Raises:
            UnknownNameError: there is none.
        """
        if not 0 <= latent < self.shared.d_sae:
            raise UnknownNameError(
                f"There is no latent {latent}; there are 0..{self.shared.d_sae - 1}."
            )
        return latent

    def check_position(self, position: int) -> int:
        """Return a position of the prompt.

        Raises:
            ConfigError: the prompt has no such position.
        """
        if not 0 <= position < len(self.ids):
            raise ConfigError(f"Positions here are 0..{len(self.ids) - 1}; got {position}.")
        return position

    def token_list(self) -> list[dict[str, Any]]:
        """Return id, readable text, position, and at how many layers each token counts."""
        pieces = self.lm.tokenizer.pieces(self.ids)
        counted = torch.stack(list(self.kept.values())).sum(0).tolist()
        return [
            {"id": i, "token": piece, "pos": pos, "layers": n}
            for pos, (i, piece, n) in enumerate(zip(self.ids, pieces, counted, strict=True))
        ]

    def entries(self) -> dict[str, list[list[float]]]:
        """Return ``[position, latent, strength]`` of every active latent, by layer."""
        found = {}
        for site, codes in self.codes.items():
            columns = (codes.place.tolist(), codes.latent.tolist(), codes.strength.tolist())
            found[str(site)] = [[p, i, _short(s)] for p, i, s in zip(*columns, strict=True)]
        return found

    def columns(self, most: int | None = None) -> dict[str, list[list[Any]]]:
        """Return positions, latents and strengths of active latents, by layer.

        Args:
            most: entries in all; the strongest of each token and layer are always in it, then
                those whose share of that strongest is largest. None: every entry.
        """
        chosen: dict[Site, Tensor] = {}
        shares = {site: self._shares(codes) for site, codes in self.codes.items()}
        every = torch.cat([*shares.values(), torch.zeros(0)])
        least = 0.0
        if most is not None and len(every) > most:
            least = float(every.topk(max(most, 1)).values[-1])
        for site, share in shares.items():
            chosen[site] = share >= least
        if most is not None:  # many may have the share that decides
            over = sum(int(on.sum()) for on in chosen.values()) - most
            for site, share in shares.items():
                last = ((share == least) & (share < 1)).nonzero()[:, 0][: max(over, 0)]
                chosen[site][last] = False
                over -= len(last)
        return {str(site): self._listed(site, on) for site, on in chosen.items()}

    def at_position(self, position: int) -> dict[str, list[list[Any]]]:
        """Return every active latent of one token, as `columns` does, by layer."""
        self.check_position(position)
        return {str(s): self._listed(s, codes.place == position) for s, codes in self.codes.items()}

    def of_latent(self, latent: int) -> dict[str, list[list[Any]]]:
        """Return every token that one latent is on at, as `columns` does, by layer."""
        self.check_latent(latent)
        return {str(s): self._listed(s, codes.latent == latent) for s, codes in self.codes.items()}

    def _shares(self, codes: LayerCodes) -> Float[Tensor, "nnz"]:
        """Return the strength of each entry over that of the strongest of its token."""
        strength = codes.strength.float()
        largest = torch.zeros(len(self.ids))
        largest.scatter_reduce_(0, codes.place, strength, "amax")
        return strength / largest[codes.place].clamp_min(1e-30)

    def _listed(self, site: Site, on: Tensor) -> list[list[Any]]:
        codes = self.codes[site]
        values = [float(f"{v:.3g}") for v in codes.strength[on].tolist()]
        return [codes.place[on].tolist(), codes.latent[on].tolist(), values]

    def strip(self, site: str, latent: int) -> list[float]:
        """Return the strength of a latent at a layer on every token; 0 where it is off."""
        codes = self.codes[self.site(site)]
        on = codes.latent == self.check_latent(latent)
        out = torch.zeros(len(self.ids))
        out[codes.place[on]] = codes.strength[on].float()
        return [_short(v) for v in out.tolist()]

    def histograms(self, bins: int = 64) -> dict[str, Any]:
        """Return how many activations each layer has by strength, on edges all layers share.

        Returns:
            ``edges`` (bins + 1, from 0), ``counts`` by layer.
        """
        if bins < 1:
            raise ConfigError(f"`bins` must be at least 1; got {bins}.")
        every = [float(c.strength.max()) for c in self.codes.values() if len(c.strength)]
        top = max(every, default=0.0)
        edges = torch.linspace(0, top or 1.0, bins + 1)
        counts = {
            str(site): torch.histogram(codes.strength.float(), edges).hist.long().tolist()
            for site, codes in self.codes.items()
        }
        return {"edges": [_short(e) for e in edges.tolist()], "counts": counts}

    def heatmap(self, position: int, threshold: float = 0.05) -> list[dict[str, Any]]:
        """Return the latents of a token by layer, those of early layers first.

        A latent is in it where its strength is over `threshold` times the largest of the token
        at that layer, at one layer or more; `values` has the layers where it is.

        Args:
            position: of the token.
            threshold: 0 to below 1.
        """
        if not 0 <= threshold < 1:
            raise ConfigError(f"`threshold` must be 0 to below 1; got {threshold}.")
        self.check_position(position)
        totals: dict[int, list[tuple[int, float]]] = {}
        shown: dict[int, list[list[Any]]] = {}
        for number, (site, codes) in zip(self.shared.numbers, self.codes.items(), strict=True):
            on = codes.place == position
            strength = codes.strength[on]
            largest = float(strength.max()) if len(strength) else 0.0
            for latent, value in zip(codes.latent[on].tolist(), strength.tolist(), strict=True):
                totals.setdefault(latent, []).append((number, value))
                if value > threshold * largest:
                    share = _short(value / largest)
                    shown.setdefault(latent, []).append([str(site), _short(value), share])
        found = []
        for latent, values in shown.items():
            mass = sum(v for _, v in totals[latent])
            mean = sum(n * v for n, v in totals[latent]) / mass
            found.append(
                {
                    "latent": latent,
                    "layer_mean": round(mean, 2),
                    "total": _short(mass),
                    "values": values,
                }
            )
        return sorted(found, key=lambda r: (r["layer_mean"], -r["total"], r["latent"]))

    def spread_over_layers(self, least: float = 1e-3) -> dict[str, list[Any]]:
        """Return P(layer | latent) over the prompt, of latents with a strength above `least`.

        Sorted from late to early layers, as the published figure is.
        """
        strongest = torch.zeros(self.shared.d_sae)
        for index in range(len(self.codes)):
            total = self.sums.totals[index].float()
            strongest = torch.maximum(strongest, total)
        some = (strongest > least).nonzero()[:, 0]
        found = distribution(self.sums.totals[:, some], self.shared.numbers)
        order = found.mean.argsort(descending=True, stable=True)
        return {
            "latent": some[order].tolist(),
            "layer_mean": found.mean[order].tolist(),
            "layer_std": found.std[order].tolist(),
            "layer_entropy": found.entropy[order].tolist(),
            "p": found.p[:, order].t().tolist(),
        }

    def metrics(self) -> list[dict[str, Any]]:
        """Return FVU, MSE, L0 and L1 of every layer on this prompt; FVU None where undefined."""
        rows, metric = [], FVU()
        for site in self.codes:
            x = self._raw(site)[self.kept[site].to(self.lm.device)].float()
            y_hat = self._predicted(site)
            codes = self.codes[site]
            batch = Batch(x, y_hat, Codes.from_dense(x[:0]))  # FVU looks at no code
            n = max(len(x), 1)
            rows.append(
                {
                    "site": str(site),
                    "tokens": len(x),
                    "fvu": metric.compute(metric.sums(batch)) if len(x) else None,
                    "mse": float((y_hat - x).square().mean()) if len(x) else None,
                    "l0": len(codes.latent) / n,
                    "l1": float(codes.strength.sum()) / n,
                }
            )
        return rows

    def logits_input(self, n: int = 10) -> list[list[dict[str, Any]]]:
        """Return the n likeliest next tokens of every position, by the model alone."""
        return self._top(self._clean, n)

    def logits_reconstructed(self, site: str, n: int = 10) -> dict[str, Any]:
        """Return predictions with the activations of one layer replaced by the SAE's.

        Returns:
            ``top``, and ``up`` and ``down``: the tokens whose logits rose and fell most; each
            a list by position.
        """
        place = self.site(site)
        keep, y_hat = self.kept[place].to(self.lm.device)[None], self._predicted(place)

        def replace(acts: Tensor) -> Tensor:
            out = acts.clone()
            out[keep] = y_hat.to(acts.dtype)
            return out

        return self._changed({self.shared.written(place): replace}, n)

    def logits_steered(self, steering: Steering, n: int = 10) -> dict[str, Any]:
        """Return predictions with a latent's direction added at a layer; see `Steering`.

        Raises:
            ConfigError: the SAE does not read the layer, the factor is not finite, or a
                position is not of the prompt.
            UnknownNameError: there is no such latent.
        """
        place = self.site(steering.site)
        latent = self.check_latent(steering.latent)
        if not math.isfinite(steering.factor):
            raise ConfigError(f"`factor` must be a finite number; got {steering.factor}.")
        at = [self.check_position(p) for p in steering.positions or range(len(self.ids))]
        if steering.unit == "act":
            row = self.shared.at(place).directions()[latent] * steering.factor
        else:
            row = self.shared.directions(place)[latent]
            row = row / row.norm().clamp_min(1e-12) * steering.factor
        if steering.unit == "norm":
            x = self._raw(place)[self.kept[place].to(self.lm.device)].float()
            if not len(x):
                raise DataError(
                    f"No token of the prompt counts at {place}, so it has no norm to steer by. "
                    f"Use unit `direction`."
                )
            row = row * x.square().sum(-1).mean().sqrt()

        def replace(acts: Tensor) -> Tensor:
            out = acts.clone()
            out[0, at] += row.to(acts)
            return out

        return self._changed({self.shared.written(place): replace}, n)

    def strongest(self, n: int, per_layer: int = 1) -> list[tuple[str, int]]:
        """Return (layer, latent) of the strongest activations, `per_layer` of each, n at most."""
        found = []
        for site, codes in self.codes.items():
            order = codes.strength.argsort(descending=True).tolist()
            latents = list(dict.fromkeys(codes.latent[order].tolist()))[:per_layer]
            found += [(str(site), i) for i in latents]
        return found[:n]

    @functools.cached_property
    def _clean(self) -> Float[Tensor, "n_ctx vocab"]:
        return self.lm.logits(self.tokens.to(self.lm.device))[0].float()

    def _raw(self, site: Site) -> Tensor:
        if not self._y:
            self._y = {
                s: v[0]
                for s, v in self.lm.read(self.tokens.to(self.lm.device), list(self.codes)).items()
            }
        return self._y[site]

    def _predicted(self, site: Site) -> Tensor:
        x = self._raw(site)[self.kept[site].to(self.lm.device)]
        x = x if self.lens is None else self.lens.apply(site, x)
        y_hat = self.shared.predict(site, self.shared.encode(site, x).codes)
        return y_hat if self.lens is None else self.lens.undo(self.shared.written(site), y_hat)

    def _changed(self, replace: dict[Site, Replace], n: int) -> dict[str, Any]:
        after = self.lm.logits(self.tokens.to(self.lm.device), replace)[0].float()
        gap = after - self._clean
        up, down = gap.topk(self._checked(n)), (-gap).topk(n)
        return {
            "top": self._top(after, n),
            "up": self._named(up.indices, up.values),
            "down": self._named(down.indices, -down.values),
        }

    def _top(self, logits: Float[Tensor, "n_ctx vocab"], n: int) -> list[list[dict[str, Any]]]:
        top = logits.topk(self._checked(n))
        return self._named(top.indices, top.values, logits.softmax(-1).gather(1, top.indices))

    def _checked(self, n: int) -> int:
        if not 1 <= n <= self.lm.vocab_size:
            raise ConfigError(f"`n` must lie in 1..{self.lm.vocab_size} (the vocabulary); got {n}.")
        return n

    def _named(
        self, ids: Tensor, values: Tensor, probs: Tensor | None = None
    ) -> list[list[dict[str, Any]]]:
        out = []
        for pos, line in enumerate(ids.tolist()):
            row = [
                {"id": i, "token": self.piece(i), "logit": _short(float(values[pos, at]))}
                for at, i in enumerate(line)
            ]
            for at, cell in enumerate(row):
                if probs is not None:
                    cell["prob"] = _short(float(probs[pos, at]))
            out.append(row)
        return out

    def piece(self, token_id: int) -> str:
        """Return a token as a reader should see it, on its own."""
        return self.lm.tokenizer.pieces([token_id])[0]


def example_records(
    examples: Sequence[Example], pieces: Callable[[Sequence[int]], list[str]]
) -> list[dict[str, Any]]:
    """Return `Example`s with readable tokens, JSON-ready: tokens, strengths, peak, row, pos."""
    return [
        {
            "tokens": pieces(e.tokens),
            "strengths": [_short(s) for s in e.strengths],
            "peak": e.peak,
            "strength": _short(e.strength),
            "row": e.row,
            "pos": e.pos,
        }
        for e in examples
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
