"""Survey: one streaming pass over a corpus, with everything that layers are compared by."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from saekit.core import provenance
from saekit.core.border import bordered
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.files import (
    digest,
    read_object,
    read_tensors,
    sha256_of,
    write_json,
    write_tensors,
)
from saekit.core.finite import check_finite
from saekit.core.progress import Progress
from saekit.data.tokenise import Rows, TokenStream
from saekit.hub.shared import SharedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.layers.examples import Examples
from saekit.studies.layers.lens import Lens
from saekit.studies.layers.sums import LayerCodes, LayerSums

FORMAT, VERSION = "saekit layers", 1
ENCODED_TOKENS = 8192  # coded at once, of one layer or of several: rounding weights is shared


@dataclass(frozen=True, kw_only=True)
class SurveyConfig(Config):
    """How much text is surveyed and what is kept of it.

    Args:
        tokens: tokens read, special ones included, rounded up to whole rows.
        first_row: where in the text to begin, so that parts can be surveyed apart and merged.
        examples: strongest contexts kept of each latent at each layer; 0: none.
        before: tokens of a context before its token.
        after: tokens after it.
        batch_rows: rows of a forward pass; changes no figure beyond rounding.

    Raises:
        ConfigError: a number is out of range.
    """

    name: ClassVar[str] = "layer_survey"
    tokens: int = setting(1_000_000, least=1)
    first_row: int = setting(0, least=0)
    examples: int = setting(4, least=0)
    before: int = setting(8, least=0)
    after: int = setting(4, least=0)
    batch_rows: int = setting(16, least=1)


class Survey:
    """Sums and examples of every latent at every layer of some text.

    Args:
        sites: the layers, in order.
        sums: see `LayerSums`.
        examples: see `Examples`.
        spans: rows of the text that went in, ``[first, end)``.
        made_from: stream, SAE and model, JSON-ready; surveys merge where it is the same.
        counts: tokens by layer that are special, over the norm, or kept; ``seen`` over all.
    """

    def __init__(
        self,
        sites: Sequence[str],
        sums: LayerSums,
        examples: Examples,
        spans: list[tuple[int, int]],
        made_from: dict[str, Any],
        counts: dict[str, Any],
    ):
        self.sites, self.sums, self.examples = list(sites), sums, examples
        self.spans, self.made_from, self.counts = spans, made_from, counts

    @property
    def numbers(self) -> list[int]:
        """The layer of every site."""
        return self.sums.numbers

    def merge(self, other: "Survey") -> None:
        """Add a survey of other rows of the same text with the same SAE.

        Raises:
            ConfigError: it is of another text, SAE, model or kind, or some rows are in both.
        """
        if self.made_from != other.made_from or self.sites != other.sites:
            keys = {k for k in self.made_from if self.made_from[k] != other.made_from.get(k)}
            raise ConfigError(
                f"Only surveys of one SAE, model, text and list of layers can be merged; these "
                f"differ in {', '.join(sorted(keys)) or 'layers'}."
            )
        spans = sorted([*self.spans, *other.spans])
        for (_, end), (first, last) in zip(spans, spans[1:], strict=False):
            if first < end:
                raise ConfigError(
                    f"Rows {first}..{min(end, last) - 1} are in both surveys and would count "
                    f"twice. Survey other rows: --first-row."
                )
        self.sums.merge(other.sums)
        self.examples.merge(other.examples)
        self.spans = _joined(spans)
        self.counts = {k: _plus(v, other.counts[k]) for k, v in self.counts.items()}

    def save(self, folder: Path) -> Path:
        """Write `sums.safetensors`, `examples.safetensors` and, last, `survey.json`."""
        write_tensors(folder / "sums.safetensors", self.sums.tensors())
        write_tensors(folder / "examples.safetensors", self.examples.packed())
        e = self.examples
        write_json(
            folder / "survey.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "sites": self.sites,
                "numbers": self.numbers,
                "n_tokens": self.sums.n_tokens,
                "d_sae": self.sums.d_sae,
                "spans": self.spans,
                "examples": {"n": e.n, "before": e.before, "after": e.after},
                "counts": self.counts,
                "made_from": self.made_from,
                "sha256": {n: sha256_of(folder / f"{n}.safetensors") for n in ("sums", "examples")},
                "provenance": provenance.collect(),
            },
        )
        return folder

    @staticmethod
    @bordered("a survey of layers")
    def load(folder: Path) -> "Survey":
        """Read what `save` wrote.

        Raises:
            FormatError: files are missing, damaged or of another format.
        """
        raw = read_object(folder / "survey.json")
        if raw.get("format") != FORMAT or raw["version"] > VERSION:
            raise FormatError(
                f"{folder / 'survey.json'} is not a survey that this saekit reads. Make it again: "
                f"saekit layers analyse RUN"
            )
        tensors = {}
        for name in ("sums", "examples"):
            file = folder / f"{name}.safetensors"
            if not file.exists() or sha256_of(file) != raw["sha256"][name]:
                raise FormatError(
                    f"{file} is missing or damaged. Make the survey again: saekit layers analyse "
                    f"RUN"
                )
            tensors[name] = read_tensors(file)
        sums = LayerSums.of(raw["numbers"], tensors["sums"], raw["n_tokens"])
        examples = Examples(len(raw["sites"]), raw["d_sae"], **raw["examples"])
        examples.unpack(tensors["examples"])
        spans = [(first, end) for first, end in raw["spans"]]
        return Survey(raw["sites"], sums, examples, spans, raw["made_from"], raw["counts"])


def survey(
    shared: SharedSAE,
    lm: LanguageModel,
    stream: TokenStream,
    config: SurveyConfig,
    *,
    lens: Lens | None = None,
    shown: bool = True,
) -> Survey:
    """Read some text once, and keep what layers are compared by.

    Args:
        shared: the SAE and the layers.
        lm: the model it was trained on.
        stream: the text.
        config: how much of it.
        lens: brings activations to the basis the SAE reads, where it was trained in another.
        shown: show progress on stderr.

    Raises:
        ShapeError: the SAE does not fit the model.
        UnknownNameError: the model has not all layers.
        DataError: activations are not finite, the text ends before `first_row`, or no token
            counts.
    """
    shared.check(lm)
    began = time.monotonic()
    n_rows = math.ceil(config.tokens / stream.n_ctx)
    sums = LayerSums(shared.numbers, shared.d_sae, lm.device)
    examples = Examples(
        len(shared.sites), shared.d_sae, n=config.examples, before=config.before, after=config.after
    )
    seen = _TokenCounts(shared)
    bar = Progress("layers", n_rows * stream.n_ctx, shown=shown)
    last = config.first_row
    for rows in stream.rows(config.batch_rows, first_row=config.first_row, n_rows=n_rows):
        kept, layers = [], []
        for _, layer, keep in codes_of(shared, lm, rows, lens):
            layers.append(layer)
            kept.append(keep)
        for index, layer in enumerate(layers):
            examples.add(index, layer, rows)
        sums.add(layers, rows.tokens.numel(), int(torch.stack(kept).any(0).sum()))
        seen.add(rows, kept)
        last = rows.first_row + len(rows.tokens)
        bar.add(rows.tokens.numel())
    bar.close()
    if not sums.n_tokens:
        raise DataError(
            f"No token counts in rows {config.first_row}..{config.first_row + n_rows - 1} of the "
            f"text. Give more text, or begin earlier."
        )
    counts = {**seen.record(), "seconds": round(time.monotonic() - began, 3)}
    made_from = {
        "stream": stream.digest,
        "split": stream.split,
        "n_ctx": stream.n_ctx,
        "model": lm.provenance(),
        "sae": shared.sae.cfg.to_dict(),
        "weights": _digest(shared),
        "lens": None if lens is None else lens.sha256,
    }
    spans = [(config.first_row, last)]
    return Survey([str(s) for s in shared.sites], sums, examples, spans, made_from, counts)


class _TokenCounts:
    """What became of the tokens that were read, by layer where layers differ."""

    def __init__(self, shared: SharedSAE):
        self._rule = shared.rule(shared.sites[0])
        self._seen = self._special = 0
        self._kept = torch.zeros(len(shared.sites), dtype=torch.int64)

    def add(self, rows: Rows, kept: Sequence[Tensor]) -> None:
        self._seen += rows.tokens.numel()
        self._special += int(self._rule.is_special(rows.tokens).sum())
        self._kept += torch.stack([k.sum() for k in kept]).cpu()

    def record(self) -> dict[str, Any]:
        kept = self._kept.tolist()
        high = [self._seen - self._special - n for n in kept]
        return {"seen": self._seen, "special": self._special, "high_norm": high, "kept": kept}


@torch.no_grad()
def activations(
    shared: SharedSAE, lm: LanguageModel, rows: Rows, lens: Lens | None = None
) -> Iterator[tuple[Site, Tensor, Bool[Tensor, "batch n_ctx"]]]:
    """Yield each site with its activations ``[batch, n_ctx, d_in]`` and which tokens count.

    Raises:
        DataError: activations are not finite.
    """
    card = shared.card
    looked_at = list(dict.fromkeys(s for site in shared.sites for s in card.sites_of(site)))
    found = lm.read(rows.tokens.to(lm.device), looked_at)
    for site in shared.sites:
        keep = card.keep(site, rows.tokens, found)
        # Freed as soon as it is used, but for a site that decides which tokens of others count.
        acts = found.pop(site) if card.pair.is_autoencoder else found[site]
        check_finite({site: acts}, rows.first_row)
        yield site, acts if lens is None else lens.apply(site, acts), keep


def codes_of(
    shared: SharedSAE, lm: LanguageModel, rows: Rows, lens: Lens | None = None
) -> Iterator[tuple[Site, LayerCodes, Bool[Tensor, "batch n_ctx"]]]:
    """Yield each site with the active latents of its tokens that count, and which these are.

    Raises:
        DataError: activations are not finite.
    """
    waiting: list[tuple[Site, Tensor, Tensor]] = []  # site, activations that count, which count
    for site, acts, keep in activations(shared, lm, rows, lens):
        waiting.append((site, acts.flatten(0, 1)[keep.flatten()], keep))
        if sum(len(x) for _, x, _ in waiting) >= ENCODED_TOKENS:
            yield from _coded(shared, waiting)
            waiting = []
    yield from _coded(shared, waiting)


def _coded(
    shared: SharedSAE, waiting: Sequence[tuple[Site, Tensor, Tensor]]
) -> Iterator[tuple[Site, LayerCodes, Bool[Tensor, "batch n_ctx"]]]:
    """Yield the codes of sites that are coded together."""
    if not waiting:
        return
    codes, end = shared.active([(site, x) for site, x, _ in waiting]), 0
    for site, x, keep in waiting:
        own, end = codes.take(slice(end, end + len(x))), end + len(x)
        place = keep.flatten().nonzero()[:, 0]
        yield site, LayerCodes(place[own.rows()], own.latents, own.values.abs(), len(x)), keep


def _digest(shared: SharedSAE) -> str:
    weights = shared.sae.state_dict()
    return digest(
        part
        for name, w in sorted(weights.items())
        for part in (name, w.detach().cpu().contiguous().numpy().tobytes())
    )


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for first, end in spans:
        if out and out[-1][1] == first:
            out[-1] = (out[-1][0], end)
        else:
            out.append((first, end))
    return out


def _plus(one: Any, other: Any) -> Any:
    if isinstance(one, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other
