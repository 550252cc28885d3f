"""Logistic regressions of many yes-or-no questions about the same examples, solved together."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # half of this times |w|^2, of a sum over examples
LBFGS_STEPS = 200
NEWTON_STEPS = 30
TOLERANCE = 1e-7
HALVINGS = 20


class Linear(NamedTuple):
    """Weights of each question on raw columns: above 0 the answer is yes."""

    weights: Float[Tensor, "questions d"]
    bias: Float[Tensor, "questions"]

    def scores(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n questions"]:
        """Return the logits of each example."""
        return x.double() @ self.weights.t() + self.bias


def linear(
    x: Float[Tensor, "n d"],
    y: Bool[Tensor, "n questions"],
    chance: torch.Generator,
    *,
    held_share: float = 0.25,
) -> Linear:
    """Return a probe for each question, on columns brought to mean 0 and standard deviation 1.

    The penalty on squared weights is one of `PENALTIES` for all questions: the one with the largest
    mean F1 on a share of the examples that it was not fitted to; then all are fitted to. By log
    loss a larger one would be best, under which few answers are yes.

    Args:
        x: examples.
        y: answers.
        chance: decides which examples the penalty is chosen on.
        held_share: of them.
    """
    order = torch.randperm(len(x), generator=chance)
    n_held = max(round(len(x) * held_share), 1)
    held, rest = order[:n_held], order[n_held:]
    found: dict[float, float] = {}
    begin = None
    for penalty in reversed(PENALTIES):  # each begins where the one before it, more curved, ended
        probe, begin = _linear(x[rest], y[rest], penalty, begin)
        said = probe.scores(x[held]) > 0
        found[penalty] = sum(f1(said[:, q], y[held, q]) for q in range(y.shape[1]))
    best = max(found, key=lambda penalty: found[penalty])  # of equal ones the largest
    return _linear(x, y, best, None)[0]


def _linear(
    x: Tensor, y: Tensor, penalty: float, begin: Tensor | None
) -> tuple[Linear, Float[Tensor, "questions d_and_one"]]:
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    scale = torch.where(std > 1e-9 * mean.abs().clamp_min(1e-9), 1 / std.clamp_min(1e-300), 0.0)
    z = ((x.double() - mean) * scale).float()
    z = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    answers = y.float()
    start = torch.zeros(y.shape[1], z.shape[1]) if begin is None else begin
    weights = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [weights],
        max_iter=LBFGS_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        with torch.enable_grad():
            fit = binary_cross_entropy_with_logits(z @ weights.t(), answers, reduction="sum")
            total = (fit + penalty / 2 * weights[:, :-1].square().sum()) / len(z)
            total.backward()
        return total

    solver.step(loss)
    found = weights.detach()
    raw = found[:, :-1].double() * scale
    return Linear(raw, found[:, -1].double() - raw @ mean), found


class Sparse(NamedTuple):
    """For each question latents one after another, and what probes of the first k say."""

    latents: Int[Tensor, "questions most"]  # -1 where there was none left that points to yes
    yes: Bool[Tensor, "most n questions"]  # answers of the probe of the first k + 1, of the test


def sparse(
    train: Float[Tensor, "n latents"],
    y: Bool[Tensor, "n questions"],
    test: Float[Tensor, "m latents"],
    most: int,
) -> Sparse:
    """Return the latents that answer each question best, chosen one after another, with probes.

    The first latent has the largest score statistic (Rao) for the question, each later one the
    largest for what a logistic regression on those before it leaves over: a latent that says the
    same as one before it has none. Only latents that point to yes are chosen. Classes weigh alike.

    Args:
        train: activations of latents.
        y: answers of train.
        test: activations whose answers are wanted.
        most: latents of a probe.
    """
    n, questions = y.shape
    chosen = torch.full((questions, most), -1, dtype=torch.int64)
    answers = torch.zeros(most, len(test), questions, dtype=torch.bool)
    if not train.shape[1]:  # no latent is on
        return Sparse(chosen, answers)
    yes = y.double()
    share = yes.mean(0)
    # As scikit-learn's class_weight="balanced"; a question that one class answers weighs nothing.
    weight = 0.5 * torch.where(y, 1 / share, 1 / (1 - share)).nan_to_num(0.0, 0.0, 0.0)
    x, other = train.double(), test.double()
    std = x.std(0, correction=0)
    varies = std > 0
    x = torch.where(varies, x / std.clamp_min(1e-300), 0.0)
    other = torch.where(varies, other / std.clamp_min(1e-300), 0.0)
    p = torch.full((n, questions), 0.5, dtype=torch.float64)
    for k in range(most):
        left = weight * (yes - p)
        spread = weight.square() * (yes - p).square()
        up = x.t() @ left  # [latents, questions]
        at = x.t() @ spread / spread.sum(0).clamp_min(1e-300)  # mean of each latent, so weighted
        size = x.square().t() @ spread - at.square() * spread.sum(0)
        statistic = torch.where((up > 0) & varies[:, None], up / size.clamp_min(1e-12).sqrt(), -1.0)
        for q in range(questions):
            statistic[chosen[q, :k][chosen[q, :k] >= 0], q] = -1.0
        best, which = statistic.max(0)
        chosen[:, k] = torch.where(best > 0, which, -1)
        p, answers[k] = _few(x, other, chosen[:, : k + 1], yes, weight)
    return Sparse(chosen, answers)


def _few(
    x: Tensor, other: Tensor, chosen: Tensor, yes: Tensor, weight: Tensor
) -> tuple[Float[Tensor, "n questions"], Bool[Tensor, "m questions"]]:
    """Fit each question on its own few columns by Newton's method; return both parts' answers."""
    there = (chosen >= 0).double()
    blank = torch.ones(len(chosen), 1, dtype=torch.float64)
    keep = torch.cat([there, blank], dim=1)  # [questions, k + 1]

    def columns(part: Tensor) -> Tensor:
        few = part[:, chosen.clamp_min(0)].transpose(0, 1)  # [questions, n, k]
        ones = torch.ones(len(chosen), len(part), 1, dtype=torch.float64)
        return torch.cat([few, ones], dim=2) * keep[:, None]

    z, y, w = columns(x), yes.t(), weight.t()
    penalty = torch.ones(z.shape[2], dtype=torch.float64)
    penalty[-1] = 1e-6  # the constant is free, but for a question that one class answers

    def loss(b: Tensor) -> Tensor:
        logits = (z @ b[..., None]).squeeze(-1)
        fit = binary_cross_entropy_with_logits(logits, y, weight=w, reduction="none").sum(1)
        return fit + 0.5 * (penalty * b.square()).sum(1)

    b = torch.zeros(len(chosen), z.shape[2], dtype=torch.float64)
    now = loss(b)
    for _ in range(NEWTON_STEPS):
        p = (z @ b[..., None]).squeeze(-1).sigmoid()
        slope = ((w * (p - y))[:, None] @ z).squeeze(1) + penalty * b
        curve = (z * (w * p * (1 - p))[..., None]).transpose(1, 2) @ z + torch.diag(penalty)
        step = torch.linalg.solve(curve, slope)
        length = torch.ones(len(b), dtype=torch.float64)
        for _ in range(HALVINGS):  # Newton's step is halved where it would climb
            then = loss(b - length[:, None] * step)
            worse = then > now + 1e-12 * now.abs()
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        b = b - length[:, None] * step
        before, now = now, loss(b)
        if bool((before - now <= 1e-9 * before.abs()).all()):
            break
    p = (z @ b[..., None]).squeeze(-1).sigmoid().t()
    return p, ((columns(other) @ b[..., None]).squeeze(-1) > 0).t()


def f1(said: Bool[Tensor, "n"], right: Bool[Tensor, "n"]) -> float:
    """Return 2 TP / (2 TP + FP + FN); 0 where there is no such example and none was said."""
    hits, both = int((said & right).sum()), int(said.sum()) + int(right.sum())
    return 2 * hits / both if both else 0.0
