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
        rule: which tokens count.
        buffer_tokens: tokens among which order is mixed. Where an epoch fits in, its
            activations stay in memory and later epochs need no forward pass.
        streams: parts of equal size into which the text is dealt row by row, each shuffled
            apart; every batch has as much of each. Several processes take them between
            them: as many streams as processes read each row once. null: one for each
            process the run begins on.

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
    rule: TokenRule = TokenRule()
    buffer_tokens: int = 2**19
    streams: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in {
            "n_ctx": 2,
            "buffer_tokens": self.step_tokens,
            "streams": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"`{name}` must be at least {low:,}; got {value:,}.")
        if self.pair.is_autoencoder and self.sae.d_in != self.sae.d_out:
            raise ConfigError(
                f"An autoencoder predicts what it reads; got d_in={self.sae.d_in}, "
                f"d_out={self.sae.d_out}. Make them equal, or name sites to write."
            )
