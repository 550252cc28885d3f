"""Losses with activations replaced: shared rows and shorter passes change none of them."""

import pytest
import torch

from saekit.core.progress import Progress
from saekit.evals import _replacing
from saekit.evals._reconstruction import Predictions
from saekit.evals._splicing import Splicing
from saekit.evals.intervals import blocks_of_documents
from saekit.models.hf import HFModel
from saekit.models.sites import Site
from saekit.models.tiny import tiny

SITE = Site(0, "resid_post")


def measured(lm, n_batches=3):
    """Return mean losses where BOS, and one more token of some rows, keep what they had."""
    chance = torch.Generator().manual_seed(1)
    bar = Progress("test", 1, shown=False)
    splicing = Splicing(lm, [SITE], (0,), bar)
    tokens = torch.randint(1, 90, (4 * n_batches, 9), generator=chance)
    tokens[:, 0] = 0
    tokens[1, 5] = 0  # its prediction is not scored
    for first in range(0, len(tokens), 4):
        rows = tokens[first : first + 4]
        clean, acts = splicing.clean(rows, [SITE])
        kept = torch.ones(rows.shape, dtype=torch.bool)
        kept[:, 0] = False
        kept[2, 3 + first // 4] = False
        y_hat = acts[SITE][kept][:, None] + 0.1
        splicing.compare(rows, clean, acts, Predictions(kept, y_hat))
    splicing.ablate_mean(torch.full((1, lm.d_model), 0.3))
    blocks = blocks_of_documents(torch.arange(len(tokens))[:, None].expand(-1, 9), 128)
    scores = {name: sums.score().value for name, sums in splicing.sums(blocks).items()}
    return splicing.mean_losses(), {n: v for n, v in scores.items() if v is not None}


def by_definition(lm, n_batches=3):
    """Return the same means by a pass of the model for each, row by row."""
    chance = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 90, (4 * n_batches, 9), generator=chance)
    tokens[:, 0] = 0
    tokens[1, 5] = 0
    found: dict[str, list[float]] = {"clean": [], "spliced": [], "zero": [], "mean": []}
    for i, row in enumerate(tokens):
        kept = torch.ones(9, dtype=torch.bool)
        kept[0] = False
        if i % 4 == 2:
            kept[3 + i // 4] = False
        ways = {
            "clean": lambda x: x,
            "spliced": lambda x: x + 0.1,
            "zero": lambda x: 0 * x,
            "mean": lambda x: 0 * x + 0.3,
        }
        for name, way in ways.items():
            change = {SITE: lambda x, way=way, k=kept: torch.where(k[None, :, None], way(x), x)}
            logits = lm.logits(row[None], change)[0, :-1].log_softmax(-1)
            losses = -logits[torch.arange(8), row[1:]]
            found[name] += losses[row[1:] != 0].tolist()
    return {name: sum(values) / len(values) for name, values in found.items()}


@pytest.mark.parametrize("kind", ["llama", "gemma3n_text"])
def test_mean_losses_are_those_of_the_definition(kind):
    lm = tiny(kind)
    losses, _ = measured(lm)
    assert losses == pytest.approx(by_definition(lm), rel=1e-5)


def test_sharing_rows_and_beginning_late_change_nothing(monkeypatch):
    shared = measured(tiny("llama"))
    monkeypatch.setattr(HFModel, "_form", lambda self, site: None)
    plain = measured(tiny("llama"))
    for one, other in zip(shared, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_ablated_rows_that_are_alike_are_run_once(monkeypatch):
    lm = tiny("llama")
    runs = []
    own = HFModel._final

    def counted(self, tokens, *rest):
        runs.append(len(tokens))
        return own(self, tokens, *rest)

    lm.stream_decides(SITE)  # tried before, with passes of its own
    monkeypatch.setattr(HFModel, "_final", counted)
    measured(lm)
    # 12 rows clean and 12 spliced; of each ablation the row with BOS alone kept, and three more.
    assert sum(runs) == 24 + 2 * 4


def test_few_rows_are_remembered(monkeypatch):
    monkeypatch.setattr(_replacing, "ROWS_KNOWN", 1)
    assert measured(tiny("llama"))[0] == pytest.approx(by_definition(tiny("llama")), rel=1e-5)
