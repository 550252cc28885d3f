"""Run: everything that decides what training on a language model's activations gives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.data.base import Corpus
from saekit.training.fit import Fit


@dataclass(frozen=True, kw_only=True)
class Run(Fit):
    """A training run as a value. Device, dtype and folder are not part of it.

    Args:
        model: hub name, folder, or name of an embedded model.
        revision: hub commit, tag or branch; null: the newest, whose commit is recorded.
        pair: sites that are read and predicted.
        corpus: the text.
        n_ctx: tokens in a row of text, special ones included.
        bos: begin each row with the tokenizer's BOS, where it has one.
        separate_documents: let tokens attend only to their own document, whose positions begin at
            0, even if a row holds several.
        rule: which tokens are kept.
        buffer_tokens: tokens among which order is mixed. If an epoch fits in, its activations stay
            in memory and later epochs need no forward pass.
        order_seed: decides the order of activations; null: `seed` does. Runs of a sweep that share
            a buffer must have the same.
        shuffle: order if an epoch does not fit into the buffer: "rolling" serves a buffer of the
            text in random order and refills it in place; "full" permutes the whole epoch, which
            needs a cache of activations.
        block_tokens: with a full shuffle: tokens that are read together.
        mixing: share of the buffer that is kept back each time it is shuffled and served, as
            `activations_mixing_fraction` of SAELens; takes the place of `shuffle`, also if an epoch
            fits into the buffer; null: not used.
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
    n_ctx: int = setting(128, least=2, unit="tokens")
    bos: bool = True
    separate_documents: bool = False
    rule: TokenRule = TokenRule()
    buffer_tokens: int = setting(2**19, least=1)
    order_seed: int | None = None
    shuffle: Literal["rolling", "full"] = "rolling"
    block_tokens: int = setting(64, least=1)
    mixing: float | None = setting(None, least=0, most=1, unit="of the buffer")
    streams: int | None = setting(None, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buffer_tokens < self.step_tokens:
            raise ConfigError(
                f"`buffer_tokens` must be at least {self.step_tokens:,}, the tokens of a step; got "
                f"{self.buffer_tokens:,}."
            )
        if self.mixing is not None and self.total_tokens < self.buffer_tokens:
            raise ConfigError(
                f"With `mixing` a buffer is shuffled when it is full, and all "
                f"{self.total_tokens:,} tokens do not fill buffer_tokens="
                f"{self.buffer_tokens:,}: they would come in the order of the text. Lower "
                f"`buffer_tokens`."
            )
        if self.mixing is not None and self.shuffle == "full":
            raise ConfigError(
                f"A full shuffle keeps nothing back; got mixing={self.mixing}. Set `mixing` to "
                f"null, or `shuffle` to rolling."
            )
        if self.pair.is_autoencoder and self.sae.d_in != self.sae.d_out:
            raise ConfigError(
                f"An autoencoder predicts what it reads; got d_in={self.sae.d_in}, "
                f"d_out={self.sae.d_out}. Make them equal, or name sites to write."
            )

    @property
    def order(self) -> int:
        """The seed of the order of activations."""
        return self.seed if self.order_seed is None else self.order_seed
