"""First tokens: which the model would begin with, and which texts do."""

from pathlib import Path

import torch

from saekit.core.result import Table
from saekit.models.base import LanguageModel
from saekit.report import style
from saekit.studies.corpus import statistics
from saekit.studies.corpus.measure import Measured

SHOWN = 15


def table(found: Measured, lm: LanguageModel) -> Table:
    """Return a row a token: the model's share and each corpus'; the likeliest of any of them."""
    model = found.first_shares
    every = {"model": model}
    for name, one in found.texts.items():
        first = one.first[one.first >= 0]
        counts = torch.bincount(first, minlength=len(model))
        every[name] = statistics.shares(counts) if len(first) else torch.zeros_like(model)
    best = torch.stack(list(every.values())).amax(0)
    best[model.topk(5).indices] = 2  # the model's own likeliest are always there
    ids = best.topk(min(SHOWN, len(model))).indices
    ids = ids[model[ids].argsort(descending=True)]
    pieces = [lm.tokenizer.decode([i]) for i in ids.tolist()]
    columns = {"id": ids.tolist(), "token": pieces}
    return Table(columns=columns | {n: s[ids].tolist() for n, s in every.items()})


def draw(found: Measured, lm: LanguageModel, path: Path) -> None:
    """Draw bars, a group a token.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(found, lm)
    figure, axes = style.new(8, 3.8)
    at, names = axes[0][0], ["model", *found.texts]
    width = 0.85 / len(names)
    for i, name in enumerate(names):
        x = [j + (i - (len(names) - 1) / 2) * width for j in range(len(drawn))]
        colour = "#555555" if not i else style.COLOURS[(i - 1) % len(style.COLOURS)]
        at.bar(x, drawn.columns[name], width, color=colour, label=name)
    at.set_xticks(range(len(drawn)), [repr(t) for t in drawn.columns["token"]], rotation=60)
    at.set(ylabel="share of texts", xlabel="first token")
    at.legend(fontsize=8)
    style.save(figure, path, drawn)
