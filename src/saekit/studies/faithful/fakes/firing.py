"""How strongly latents fire on text, and how often they are over their thresholds on sequences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.progress import Progress
from saekit.evals.base import Subject
from saekit.studies.faithful.coding import Coded, coded
from saekit.studies.faithful.fakes.definitions import Definition, Scale
from saekit.studies.faithful.sequences import Padded


class Sizes:
    """How large the activations of each latent are where it is on."""

    def __init__(self, d_sae: int):
        self.largest = torch.zeros(d_sae, dtype=torch.float64)
        self._squares = torch.zeros(d_sae, dtype=torch.float64)
        self._on = torch.zeros(d_sae, dtype=torch.float64)
        self.n_tokens = 0

    def add(self, codes: Codes) -> None:
        """Take in the codes of some tokens."""
        size, latents = codes.values.abs().double().cpu(), codes.latents.cpu()
        self.largest.scatter_reduce_(0, latents, size, "amax")
        self._squares.index_add_(0, latents, size.square())
        self._on.index_add_(0, latents, (size > 0).double())
        self.n_tokens += codes.n_rows

    @property
    def l0(self) -> float:
        """Latents on per token."""
        return float(self._on.sum()) / max(self.n_tokens, 1)

    def thresholds(self, tau: float, scale: Scale) -> Float[Tensor, "d_sae"]:
        """Return above which size of activation each latent fires, act units."""
        if scale == "absolute":
            return torch.full_like(self.largest, tau)
        if scale == "max":
            return tau * self.largest
        return tau * (self._squares / self._on.clamp_min(1)).sqrt()


class Tally:
    """In which sequences, or at how many of their tokens, each latent fires.

    Args:
        definition: what firing is.
        thresholds: of each latent.
        n_seqs: sequences in all.
    """

    def __init__(self, definition: Definition, thresholds: Float[Tensor, "d_sae"], n_seqs: int):
        self.definition, self.thresholds = definition, thresholds
        by_token = definition.mode == "token"
        kind = torch.int16 if by_token else torch.uint8
        self.hits = torch.zeros(n_seqs, len(thresholds), dtype=kind)
        self.tokens = torch.zeros(n_seqs, dtype=torch.int64)
        self._on = 0

    @property
    def sizes(self) -> Float[Tensor, "n_seqs"]:
        """How often each sequence could have fired: its tokens, or once; 0 if it has no token."""
        if self.definition.mode == "token":
            return self.tokens.double()
        return (self.tokens > 0).double()

    @property
    def l0(self) -> float:
        """Latents on per token."""
        return self._on / max(int(self.tokens.sum()), 1)

    def add(self, first: int, n: int, found: Coded) -> None:
        """Take in the codes of `n` sequences, of which the first is number `first`."""
        size, latents = found.codes.values.abs().double().cpu(), found.codes.latents.cpu()
        sequence = found.sequence.cpu()
        d_sae = len(self.thresholds)
        at = sequence[found.codes.rows().cpu()] * d_sae + latents
        if self.definition.mode == "token":
            over = at[size > self.thresholds[latents]]
            hits = torch.bincount(over, minlength=n * d_sae).view(n, d_sae)
        else:
            total = torch.zeros(n * d_sae, dtype=torch.float64)
            if self.definition.statistic == "sum":
                total.index_add_(0, at, size)
            else:
                total.scatter_reduce_(0, at, size, "amax")
            hits = total.view(n, d_sae) > self.thresholds
        self.hits[first : first + n] = hits.to(self.hits.dtype)
        self.tokens[first : first + n] = torch.bincount(sequence, minlength=n)
        self._on += int((size > 0).sum())

    def rates(self) -> Float[Tensor, "d_sae"]:
        """Return in which share of sequences, or of tokens, each latent fires."""
        hits = torch.zeros(len(self.thresholds), dtype=torch.int64)
        for part in self.hits.split(256):
            hits += part.sum(0, dtype=torch.int64)
        return hits.double() / self.sizes.sum().clamp_min(1)


def check_bound(fake: int, l0: float, definition: Definition) -> None:
    """Refuse counts that cannot be: at most L0 / p latents fire on more than a share p of tokens.

    Shares of tokens sum to the latents on per token, so more than that is an error in arithmetic.

    Raises:
        AssertionError: there are more.
    """
    if definition.mode == "token" and fake * definition.p > l0:
        raise AssertionError(
            f"{fake} latents cannot each fire on over {definition.p:.0%} of tokens with {l0:.1f} "
            f"on per token: this is an error in saekit. Please report it."
        )


def sizes_on(
    subjects: Sequence[Subject], text: Padded, batch_rows: int, bar: Progress
) -> list[Sizes]:
    """Return how large activations are on some text, under each SAE."""
    found = [Sizes(s.sae.cfg.d_sae) for s in subjects]
    for _, each in coded(subjects, text, batch_rows, bar):
        for sizes, one in zip(found, each, strict=True):
            sizes.add(one.codes)
    return found


def tallies_on(
    subjects: Sequence[Subject],
    blank: Sequence[Tally],
    text: Padded,
    batch_rows: int,
    bar: Progress,
) -> None:
    """Fill in tallies, one for each SAE, with what fires on some sequences."""
    for first, each in coded(subjects, text, batch_rows, bar):
        n = min(batch_rows, len(text.tokens) - first)
        for tally, one in zip(blank, each, strict=True):
            tally.add(first, n, one)
