"""Prompting: which latents are on at each token of a text of one's own."""

import dataclasses
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saekit.core import notebook
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.hub.splicing import check_order
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, Text

SHOWN_TOKENS = 200  # of a text in a notebook


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted:
    """The codes of a text. `print` shows the strongest latents of each token.

    Args:
        tokens: ids ``[batch, n_ctx]``.
        pieces: the tokens as text, in the order of rows.
        codes: of every token, act units.
        kept: which tokens the SAE's rules count; of others, as BOS, codes mean little.
        shown: latents a token that `print` shows.
    """

    tokens: Int[Tensor, "batch n_ctx"]
    pieces: list[str]
    codes: Codes
    kept: Bool[Tensor, "batch n_ctx"]
    shown: int = 5

    def top(self, n: int | None = None) -> list[list[tuple[int, float]]]:
        """Return the strongest latents of each token with their activations."""
        return self.codes.top(n or self.shown)

    def latent(self, number: int) -> list[float]:
        """Return the activation of one latent at every token, in the order of `pieces`."""
        if not 0 <= number < self.codes.d_sae:
            raise ConfigError(
                f"There is no latent {number}; this SAE has latents 0..{self.codes.d_sae - 1}."
            )
        index = torch.tensor([number], device=self.codes.latents.device)
        return self.codes.columns(index).flatten().tolist()

    def __str__(self) -> str:
        wide = max(len(repr(piece)) for piece in self.pieces)
        lines = []
        for piece, kept, row in zip(self.pieces, self.kept.flatten(), self.top(), strict=True):
            found = "  ".join(f"{latent}:{act:.3g}" for latent, act in row)
            lines.append(f"{piece!r:{wide}}  {found if kept else f'({found}) not counted'}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        top, kept = self.top(), self.kept.flatten().tolist()
        largest = max((abs(act) for row in top for _, act in row), default=0.0)
        strip, rows = [], []
        each = list(zip(self.pieces, kept, top, strict=True))
        for at, (piece, counts, row) in enumerate(each[:SHOWN_TOKENS]):
            most = max((abs(act) for _, act in row), default=0.0)
            listed = ", ".join(f"{latent} ({notebook.number(act)})" for latent, act in row)
            said = listed if counts else f"not counted: {listed}"
            drawn = notebook.token(piece, most / largest if counts and largest else 0.0, said)
            strip.append(drawn)
            shown = notebook.escaped(listed)
            cell = shown if counts else f'<span class="off">{shown} (not counted)</span>'
            rows.append((str(at), notebook.token(piece), cell))
        rest = len(each) - SHOWN_TOKENS
        more = f'<div class="r n">and {rest:,} more tokens</div>' if rest > 0 else ""
        return notebook.page(
            f"{len(each):,} tokens",
            f'<div class="r">{"".join(strip)}</div>',
            notebook.section(
                "Strongest latents of each token (act units)",
                notebook.table(("", "token", "latents"), rows),
            ),
            more,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record: the strongest latents of each token."""
        rows = zip(
            self.tokens.flatten().tolist(),
            self.pieces,
            self.kept.flatten().tolist(),
            self.top(),
            strict=True,
        )
        return {
            "tokens": [
                {
                    "id": token,
                    "text": piece,
                    "counts": kept,
                    "latents": [{"latent": latent, "act": act} for latent, act in top],
                }
                for token, piece, kept, top in rows
            ]
        }


@torch.no_grad()
def prompt(lm: LanguageModel, sae: TrainedSAE, text: Text, *, top: int = 5) -> Prompted:
    """Show which latents are on at each token of a text.

    Args:
        lm: the language model; SAEs spliced into it are in effect.
        sae: the SAE; any but one of windows.
        text: one text, texts of equally many tokens, or ids. A text begins with BOS if the SAE's
            training rows did.
        top: latents a token that `print` shows.

    Raises:
        ConfigError: `top` is below 1, or the SAE codes windows of tokens.
        UnknownNameError: the model has no such site.
        DataError: there is no token in the text.
    """
    check_order(lm, sae)
    if top < 1:
        raise ConfigError(f"`top`, latents a token, must be at least 1; got {top}.")
    if "seq" in sae.cfg.event:
        raise ConfigError(f"`{sae.cfg.name}` codes windows of tokens, not tokens one by one.")
    sae = sae.ruled(lm)
    bos = sae.card.bos_id(lm.tokenizer) is not None
    tokens = lm.tokens(text, bos=bos)
    joint = "site" in sae.cfg.event
    reads = sae.card.pair.reads if joint else [sae.site]
    sites = list(dict.fromkeys([*reads, *(sae.card.written(site) for site in reads)]))
    acts = lm.read(tokens, sites)
    codes = sae.encode(acts if joint else acts[sae.site])
    kept = torch.stack(
        [sae.card.keep(site, tokens.to(acts[site].device), acts) for site in reads]
    ).all(0)
    return Prompted(
        tokens=tokens,
        pieces=[p for row in tokens.tolist() for p in lm.tokenizer.pieces(row)],
        codes=codes,
        kept=kept,
        shown=top,
    )
