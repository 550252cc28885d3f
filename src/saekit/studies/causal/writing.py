"""Text that a model writes while it is changed, judged by a classifier that never saw such text."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.progress import Progress
from saekit.data.labelled.base import Labelled
from saekit.evals import _predictions
from saekit.evals._replacing import logits_in_parts
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.causal import edits
from saekit.studies.causal.edits import Change
from saekit.studies.causal.reading import padded
from saekit.studies.faithful.probing import logistic
from saekit.studies.faithful.probing.logistic import Linear
from saekit.studies.faithful.sequences import Padded, Shape


class Judge(NamedTuple):
    """A classifier of texts by the mean activation at a site of the untouched model."""

    lm: LanguageModel
    site: Site
    shape: Shape  # texts are cut to as many tokens as are written
    probes: list[Linear]
    batch_rows: int
    bar: Progress

    def of_rows(self, rows: Padded) -> Int[Tensor, "n"]:
        """Return the class of each text: the probe with the largest logit."""
        return _classes(self.probes, _means(self, rows))


class Said(NamedTuple):
    """What was written after each prompt."""

    judged: Int[Tensor, "n"]  # its class
    loss: Float[Tensor, "n"]  # of the untouched model on it, nats/token
    texts: list[str]


def judge_site(lm: LanguageModel, read: Site) -> Site:
    """Return where a judge reads: three quarters up the layers, and not where an SAE writes."""
    layer = 3 * lm.n_layers // 4
    if read.point == "resid_post" and read.layer == layer:
        layer = layer - 1 if layer else lm.n_layers - 1
    return lm.check_site(read._replace(layer=layer, point="resid_post", head=None))


def trained_judge(
    blank: Judge, task: Labelled, folds: int, seed: int
) -> tuple[Judge, Int[Tensor, "n_test"]]:
    """Return a judge of the classes of a task, and what it says of the task's test texts."""
    n = len(task.train)
    texts = [e.text for e in (*task.train, *task.test)]
    x = _means(blank, padded(texts, blank.lm, blank.shape))
    labels = torch.tensor([e.label for e in task.train])
    probes = [
        logistic.linear(x[:n], labels == c, folds=folds, seed=seed)
        for c in range(len(task.classes))
    ]
    return blank._replace(probes=probes), _classes(probes, x[n:])


def _classes(probes: list[Linear], x: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
    return torch.stack([p.logits(x) for p in probes], dim=1).argmax(1)


@torch.no_grad()
def _means(judge: Judge, rows: Padded) -> Float[Tensor, "n d"]:
    """Return the mean activation of each text over its tokens but BOS."""
    found = torch.zeros(len(rows.tokens), judge.lm.width(judge.site))
    order = rows.real.sum(1).argsort(stable=True)
    for first in range(0, len(order), judge.batch_rows):
        some = order[first : first + judge.batch_rows]
        part = Padded(rows.tokens[some], rows.real[some]).rows(slice(0, len(some)))
        acts = judge.lm.read(part.tokens.to(judge.lm.device), judge.site).float().cpu()
        kept = part.real.clone()
        kept[:, 0] &= judge.shape.bos_id is None
        weight = kept.float() / kept.sum(1, keepdim=True).clamp_min(1)
        found[some] = torch.einsum("bn,bnd->bd", weight, acts)
        judge.bar.add(part.tokens.numel())
    return found


def written(
    judge: Judge, prompts: Int[Tensor, "n p"], change: Change | None, how: tuple[int, float, int]
) -> Said:
    """Return what the model writes after prompts while it is changed, judged untouched.

    Args:
        judge: of the texts; its model writes.
        prompts: token ids.
        change: None: none.
        how: tokens to write, temperature, and the seed of the draws.
    """
    lm, (n_new, temperature, seed) = judge.lm, how
    with edits.attached(lm, change):
        new = torch.tensor(
            lm.continue_tokens(
                prompts.tolist(),
                n_new,
                temperature=temperature,
                seed=seed,
                stop=[],
                batch_rows=judge.batch_rows,
            )
        )
    judge.bar.add(new.numel())
    bos = [] if judge.shape.bos_id is None else [torch.full((len(new), 1), judge.shape.bos_id)]
    rows = torch.cat([*bos, new], dim=1)
    judged = judge.of_rows(Padded(rows, torch.ones_like(rows, dtype=torch.bool)))
    return Said(
        judged,
        _losses(judge, torch.cat([prompts, new], dim=1), prompts.shape[1]),
        [lm.tokenizer.decode(ids) for ids in new.tolist()],
    )


@torch.no_grad()
def _losses(judge: Judge, rows: Int[Tensor, "n m"], start: int) -> Float[Tensor, "n"]:
    """Return the mean loss of the tokens from a position on, by the untouched model."""
    found = []
    for part in rows.split(judge.batch_rows):
        tokens = part.to(judge.lm.device)
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        scored[:, start - 1 : -1] = True
        pieces = logits_in_parts(judge.lm, tokens, scored, judge.lm.final(tokens))
        each = torch.cat([_predictions.losses(logits, t) for t, (logits,) in pieces])
        found.append(each.view(len(part), -1).double().mean(1).cpu())
        judge.bar.add(tokens.numel())
    return torch.cat(found)
