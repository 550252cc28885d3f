"""The contract of a floor: an SAE goes in, another one that learned less comes out in its place."""

import abc
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import saekit.evals.floors as package
from saekit.core.errors import ConfigError, DataError
from saekit.core.finite import check_finite
from saekit.core.registry import Registry
from saekit.data.tokenise import Rows
from saekit.evals._reconstruction import float32_on
from saekit.evals.base import Subject
from saekit.models.base import LanguageModel
from saekit.saes.base import SAE

BATCH_ROWS = 8


class Ground(NamedTuple):
    """What floors are made from.

    Args:
        rows: given a number of rows, yields the part of the text that SAEs are trained on, in
            batches, always from its beginning.
        seed: decides every draw.
        models: models with shuffled weights, by the id of the model that they are of: added to,
            so that SAEs of one model share them.
    """

    rows: Callable[[int], Iterable[Rows]]
    seed: int
    models: dict[int, LanguageModel]


class Floor(abc.ABC):
    """One kind of SAE that learned less, next to which a score is read."""

    name: ClassVar[str]
    label: ClassVar[str]
    version: ClassVar[int]  # raised when the same SAE gets another floor
    of_model: ClassVar[bool] = False  # the same SAE on another model: it bounds no score of weights

    @abc.abstractmethod
    def make(self, subject: Subject, ground: Ground) -> Subject:
        """Return the floor that stands in the place of an SAE.

        Raises:
            ConfigError: SAEs of this kind have no such floor.
            DataError: the text cannot be used.
        """

    def stands_for(self, subject: Subject, sae: SAE) -> Subject:
        """Return a floor in the place of an SAE.

        Of the settings of training it keeps the text alone, which says what is held out. So SAEs
        that differ in nothing that the floor is made from share one floor.
        """
        known = {"corpus": subject.trained["corpus"]} if "corpus" in subject.trained else {}
        name = f"{subject.name}, {self.label}"
        return subject._replace(sae=sae.eval().requires_grad_(False), name=name, trained=known)


registry = Registry[Floor]("floor", package, of_studies="eval_floors")


def check_single(subject: Subject) -> None:
    """Refuse an SAE that codes sites or positions jointly.

    Raises:
        ConfigError: it does.
    """
    if subject.event:
        raise ConfigError(
            f"floors are of single activations, and this SAE codes {' and '.join(subject.event)} "
            f"jointly"
        )


def check_autoencoder(subject: Subject) -> None:
    """Refuse an SAE that predicts another site than it reads, or codes several jointly.

    Raises:
        ConfigError: it does.
    """
    check_single(subject)
    if subject.read != subject.write:
        raise ConfigError(
            f"this floor gives back what it reads, and a transcoder of {subject.read} predicts "
            f"{subject.write}"
        )


@torch.no_grad()
def kept_acts(subject: Subject, ground: Ground, n_tokens: int) -> Iterator[Float[Tensor, "m d_in"]]:
    """Yield activations of the training text at the tokens that count, `n_tokens` or a few more.

    Raises:
        DataError: there is no token that counts.
    """
    lm = subject.lm
    assert lm is not None  # floors are made of SAEs that stand in a model
    found = 0
    for rows in ground.rows(BATCH_ROWS):
        acts = lm.read(rows.tokens, [subject.read])
        check_finite(acts, rows.first_row)
        x = acts[subject.read]
        kept = x[subject.rule.keep(rows.tokens, x)].float()
        if not len(kept):
            continue
        found += len(kept)
        yield kept
        if found >= n_tokens:
            return
    if not found:
        raise DataError("the SAE's rules leave no token of the training text")


@torch.no_grad()
def mean_l0(subject: Subject, x: Float[Tensor, "m d_in"]) -> int:
    """Return latents on per token, as a number to keep: whole, and at least 1."""
    assert subject.lm is not None
    live = float32_on(subject.sae, subject.lm.device).encode(x).live()
    return max(round(len(live.latents) / max(len(x), 1)), 1)
