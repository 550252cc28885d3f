"""On which tokens each latent is on, and in how many documents."""

from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saekit.analysis.columns.base import Columns, Made, no_value, registry
from saekit.analysis.document_ends import document_ends
from saekit.analysis.examples import ORDER
from saekit.analysis.firing import Firing


@final
@registry.register
class Tokens(Columns):
    """Tokens that a latent fires on most, in how many documents, and where in them."""

    name: ClassVar[str] = "tokens"
    columns: ClassVar[dict[str, tuple[str, str, str]]] = {
        "token": ("token", "", "The token it is most often on at."),
        "token_share": ("token share", "share", "Share of its activations that are at that token."),
        "trigger_bits": (
            "trigger bits",
            "bits",
            "Entropy of the tokens it is on at: 0 where it is always the same.",
        ),
        "documents": ("documents", "documents", "Documents it is on in."),
        "first_share": (
            "first share",
            "share",
            "Share of its activations that are at the first token of a document.",
        ),
        "last_share": (
            "last share",
            "share",
            "Share of its activations that are at the last token of a document.",
        ),
        "top_token_share": (
            "top token share",
            "share",
            "Largest share of its strongest examples whose peak is at the same token.",
        ),
    }

    @override
    def run(self, made: Made) -> dict[str, Tensor | list[Any]]:
        fired = made.fired
        table = Firing(top=1).table(fired)
        commonest = Firing(top=1).top_tokens(fired.triggers, made.store.d_sae)
        n = fired.counts.double()
        count = torch.tensor([each[0][1] if each else 0 for each in commonest]).double()
        first, last = document_ends(made.store)
        return {
            "token": [
                made.lm.tokenizer.pieces([each[0][0]])[0] if each else None for each in commonest
            ],
            "token_share": count / n,
            "trigger_bits": table.columns["trigger_bits"],
            "documents": fired.docs,
            "first_share": first / n,
            "last_share": last / n,
            "top_token_share": _alike(made),
        }


def _alike(made: Made) -> Tensor:
    """Return the largest share of the strongest examples that peak at one token."""
    e = made.examples
    mine = e.band == ORDER.index("top")
    latent, row, pos = e.latent[mine], e.row[mine], e.pos[mine]
    if not len(latent):
        return no_value(made.store.d_sae)
    rows, which = np.unique(row, return_inverse=True)
    tokens, _ = made.store.rows(torch.from_numpy(rows))
    peak = tokens.numpy()[which, pos]
    vocab = int(peak.max()) + 1
    keys, counts = np.unique(latent * vocab + peak, return_counts=True)
    most = np.zeros(made.store.d_sae)
    np.maximum.at(most, keys // vocab, counts)
    n = np.bincount(latent, minlength=made.store.d_sae)
    return torch.from_numpy(np.where(n > 0, most / np.maximum(n, 1), np.nan))
