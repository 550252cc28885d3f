"""Run: everything that decides what training on a language model's activations gives."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core.errors import ConfigError
from saekit.data.base import Corpus
from saekit.train.fit import Fit


@dataclass(frozen=True, kw_only=True)
class Run(Fit):
    """A training run as a value. Device, dtype and folder are not part of it.

    Args:
        model: hub name, folder, or name of an embedded model.
        revision: hub commit, tag or branch; null: the newest, whose commit is recorded.
        pair: sites read and predicted.
        corpus: the text.
        n_ctx: tokens of a row, special ones included; at least 2.
        bos: begin each row with the tokenizer's BOS, where it has one.
        separate_documents: tokens attend to their own document alone, whose positions begin
            at 0, also where a row holds several.
        rule: which tokens count.
        buffer_tokens: tokens among which order is mixed. Where an epoch fits in, its
            activations stay in memory and later epochs need no forward pass.
        order_seed: decides the order of activations; null: `seed` does. Runs of a sweep that
            share one buffer share it.

    Everything else is described in `Fit`.

    Raises:
        ConfigError: a value is out of range, widths do not fit the pair, or two settings
            exclude each other.
    """

    name: ClassVar[str] = "run"
    model: str
    revision: str | None = None
    pair: Pair
    corpus: Corpus
    n_ctx: int = 128
    bos: bool = True
    separate_documents: bool = False
    rule: TokenRule = TokenRule()
    buffer_tokens: int = 2**19
    order_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in {"n_ctx": 2, "buffer_tokens": self.step_tokens}.items():
            value = getattr(self, name)
            if value < low:
                raise ConfigError(f"`{name}` must be at least {low:,}; got {value:,}.")
        if self.pair.is_autoencoder and self.sae.d_in != self.sae.d_out:
            raise ConfigError(
                f"An autoencoder predicts what it reads; got d_in={self.sae.d_in}, "
                f"d_out={self.sae.d_out}. Make them equal, or name sites to write."
            )

    @property
    def order(self) -> int:
        """The seed of the order of activations."""
        return self.seed if self.order_seed is None else self.order_seed
