"""Logistic regression with its penalty chosen on train alone. Only this file knows scikit-learn.

Everything that looks at labels is done inside of each fold: columns are standardised, and the few
of sparse probing chosen, on the fold's own train part.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.errors import DataError, MissingExtraError

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, of the sum of losses over examples
MOST_STEPS = 1000


class Probe(NamedTuple):
    """What a probe says of the test examples, and how it was made."""

    predicted: Int[Tensor, "n_test"]
    c: float
    converged: bool
    columns: list[int] | None  # those that it reads; None: all


def check() -> None:
    """Refuse, before any work, where scikit-learn is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    _library()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Fit on one thread: the matrices are small, and threads that wait for each other cost more.

    Measured on two cores: a probe takes 0.4 to 0.65 of the time, and a quarter to 0.4 of the work.
    """
    with _library().threadpool_limits(limits=1, user_api="blas"):
        yield


def f_ratio(
    x: Float[Tensor, "n columns"], labels: Int[Tensor, "n"], n_classes: int
) -> Float[Tensor, "columns"]:
    """Return how far apart the means of the classes are, of each column; 0 of one that is constant.

    The variance between classes over that within, each over its degrees of freedom (F of a
    one-way analysis of variance).
    """
    x = x.double()
    member = torch.nn.functional.one_hot(labels, n_classes).double()
    n = member.sum(0)
    there = n > 0
    means = (member.t() @ x)[there] / n[there, None]
    between = (n[there, None] * (means - x.mean(0)).square()).sum(0)
    total = (x - x.mean(0)).square().sum(0)
    within = (total - between).clamp_min(0)
    k = int(there.sum())
    ratio = (between / max(k - 1, 1)) / (within / max(len(x) - k, 1))
    # A column that a constant class mean explains whole has no variance within: the best there is.
    ratio = torch.where((within <= 1e-12 * total) & (total > 0), torch.inf, ratio)
    return torch.where(total > 0, ratio, 0.0)


def best_columns(
    x: Float[Tensor, "n columns"], labels: Int[Tensor, "n"], n_classes: int, k: int
) -> Int[Tensor, "k"]:
    """Return the columns with the largest `f_ratio`, the largest first; ties by number."""
    return f_ratio(x, labels, n_classes).sort(descending=True, stable=True).indices[:k]


@_one_thread()
def probe(
    train: Float[Tensor, "n columns"],
    labels: Int[Tensor, "n"],
    test: Float[Tensor, "m columns"],
    *,
    n_classes: int,
    folds: int,
    seed: int,
    k: int | None = None,
) -> Probe:
    """Fit a multinomial logistic regression with an L2 penalty and predict the test examples.

    The penalty is the one of `PENALTIES` with the smallest mean log loss over the folds, where
    the smaller C wins a tie; then it is fitted to all of train.

    Args:
        train: a row an example.
        labels: classes of train.
        test: a row an example.
        n_classes: of the task.
        folds: of the cross-validation, at least 2; stratified by class.
        seed: of the folds.
        k: read only the best so many columns, chosen by `f_ratio`; None: all.

    Raises:
        DataError: a class has fewer train examples than there are folds.
        MissingExtraError: scikit-learn is not installed.
    """
    sklearn = _library()
    least = int(torch.bincount(labels)[labels.unique()].min())
    if least < folds:
        raise DataError(
            f"The smallest class has {least} train examples, and cross-validation has {folds} "
            f"folds. Give more examples of it, or fewer folds."
        )
    cut = sklearn.StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    losses = torch.zeros(len(PENALTIES), dtype=torch.float64)
    for inside, outside in cut.split(torch.zeros(len(labels)).numpy(), labels.numpy()):
        there, held = torch.from_numpy(inside), torch.from_numpy(outside)
        x, y, _ = _prepared(train[there], labels[there], train[held], n_classes, k)
        for i, c in enumerate(PENALTIES):
            model, _ = _fitted(x, labels[there], c)
            losses[i] += _log_loss(model, y, labels[held])
    best = PENALTIES[int(losses.argmin())]
    x, y, columns = _prepared(train, labels, test, n_classes, k)
    model, converged = _fitted(x, labels, best)
    predicted = torch.from_numpy(model.predict(y.numpy())).long()
    return Probe(predicted, best, converged, columns)


class Linear(NamedTuple):
    """A probe of one class against the rest, on columns as they come: logit = x @ weight + bias."""

    weight: Float[Tensor, "columns"]
    bias: float
    c: float
    converged: bool

    def logits(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n"]:
        """Return the logit of the class, float64."""
        return x.double() @ self.weight + self.bias


@_one_thread()
def linear(
    x: Float[Tensor, "n columns"], is_class: Bool[Tensor, "n"], *, folds: int, seed: int
) -> Linear:
    """Fit one class against the rest, both sides weighing the same however many examples they have.

    The penalty is chosen as of `probe`. Standardisation is folded into the weights, so that they
    can be held against directions of the activation.

    Args:
        x: a row an example.
        is_class: which are of the class.
        folds: of the cross-validation, at least 2; stratified.
        seed: of the folds.

    Raises:
        DataError: one side has fewer examples than there are folds.
        MissingExtraError: scikit-learn is not installed.
    """
    sklearn, labels = _library(), is_class.long()
    least = int(torch.bincount(labels, minlength=2).min())
    if least < folds:
        raise DataError(
            f"One side of a probe has {least} train examples, and cross-validation has {folds} "
            f"folds. Give more texts of each class, or fewer folds."
        )
    cut = sklearn.StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    losses = torch.zeros(len(PENALTIES), dtype=torch.float64)
    for inside, outside in cut.split(torch.zeros(len(labels)).numpy(), labels.numpy()):
        there, held = torch.from_numpy(inside), torch.from_numpy(outside)
        inner, outer, _ = _prepared(x[there], labels[there], x[held], 2, None)
        for i, c in enumerate(PENALTIES):
            model, _ = _fitted(inner, labels[there], c, balanced=True)
            losses[i] += _log_loss(model, outer, labels[held])
    best = PENALTIES[int(losses.argmin())]
    mean, scale = _standard(x)
    model, converged = _fitted(((x.double() - mean) * scale).float(), labels, best, balanced=True)
    weight = torch.from_numpy(model.coef_[0]).double() * scale
    return Linear(weight, float(model.intercept_[0]) - float(weight @ mean), best, converged)


def principal(
    train: Float[Tensor, "n d"], test: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "m c"]]:
    """Return both parts on the principal components of train, largest variance first."""
    centre = train.double().mean(0)
    _, _, across = torch.linalg.svd(train.double() - centre, full_matrices=False)
    return (
        ((train.double() - centre) @ across.t()).float(),
        ((test.double() - centre) @ across.t()).float(),
    )


def _prepared(
    train: Tensor, labels: Tensor, test: Tensor, n_classes: int, k: int | None
) -> tuple[Tensor, Tensor, list[int] | None]:
    """Choose columns and standardise them by the train part; of many, turn them to fewer."""
    columns = None
    if k is not None:
        chosen = best_columns(train, labels, n_classes, k)
        columns = chosen.tolist()
        train, test = train[:, chosen], test[:, chosen]
    mean, scale = _standard(train)
    x, y = (((part.double() - mean) * scale).float() for part in (train, test))
    return *_fewer(x, y), columns


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each column, and 1 over its deviation; 0 of one that is constant."""
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    varies = std > 1e-12 * mean.abs().clamp_min(1e-12)
    return mean, torch.where(varies, 1 / std.clamp_min(1e-300), 0.0)


def _fewer(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Turn more columns than examples to as many as examples, which changes no fit.

    An L2 penalty does not see a rotation, and weights outside of the span of train are 0.
    """
    n, d = train.shape
    if d <= n:
        return train, test
    gram = train.double() @ train.double().t()
    values, vectors = torch.linalg.eigh(gram)
    some = values > 1e-10 * values[-1].clamp_min(1e-300)
    if not bool(some.any()):  # no column varies, as where every latent is dead
        return train[:, :1], test[:, :1]
    roots = values[some].sqrt()
    back = vectors[:, some] / roots  # [n, c]: the span's axes in terms of examples
    return (
        (vectors[:, some] * roots).float(),
        (test.double() @ (train.double().t() @ back)).float(),
    )


def _fitted(x: Tensor, labels: Tensor, c: float, *, balanced: bool = False) -> tuple[Any, bool]:
    sklearn = _library()
    weights = "balanced" if balanced else None
    model = sklearn.LogisticRegression(C=c, max_iter=MOST_STEPS, tol=1e-4, class_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.ConvergenceWarning)
        model.fit(x.numpy(), labels.numpy())
    return model, int(max(model.n_iter_)) < MOST_STEPS


def _log_loss(model: Any, x: Tensor, labels: Tensor) -> float:
    """Return the mean log loss; folds are stratified, so that each class is known to the model."""
    logits = torch.from_numpy(model.decision_function(x.numpy())).double()
    if logits.ndim == 1:  # of two classes scikit-learn gives the logit of the second
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    place = {int(c): i for i, c in enumerate(model.classes_)}
    at = torch.tensor([place[i] for i in labels.tolist()])
    return float(torch.nn.functional.cross_entropy(logits, at))


class _Library(NamedTuple):
    LogisticRegression: Any
    StratifiedKFold: Any
    ConvergenceWarning: Any
    threadpool_limits: Any


def _library() -> _Library:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold
        from threadpoolctl import threadpool_limits  # comes with scikit-learn
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "probing") from error
    return _Library(LogisticRegression, StratifiedKFold, ConvergenceWarning, threadpool_limits)


def counts(predicted: Int[Tensor, "n"], classes: Sequence[str]) -> dict[str, int]:
    """Return how often each class was predicted."""
    found = torch.bincount(predicted, minlength=len(classes)).tolist()
    return dict(zip(classes, found, strict=True))
