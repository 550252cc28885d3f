"""Generation: how sequences of tokens are continued, one token at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.seeds import generator

FIRST_SORTED = 512  # tokens


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn from its logits.

    Args:
        temperature: logits are divided by it; 0 takes the largest, the lowest id among equals.
        top_p: draw from the fewest tokens that hold this probability together, in (0, 1].
        seed: decides every draw. Sequence i draws from a stream of its own, whatever else is in the
            batch; several seeds are one for each sequence.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Holtzman et al. 2020, arXiv:1904.09751 (nucleus sampling). Differs: nothing known.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"`temperature` must be 0 or more; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1]; got {self.top_p}.")

    def streams(self, n: int) -> list[torch.Generator]:
        """Return where each of `n` sequences draws from.

        Raises:
            ConfigError: there are several seeds, and not one for each.
        """
        if isinstance(self.seed, int):
            return [generator(self.seed, "generate", i) for i in range(n)]
        if len(self.seed) != n:
            raise ConfigError(f"`seed` is one number, or one for each of {n} prompts.")
        return [generator(seed, "generate", 0) for seed in self.seed]

    def pick(
        self, logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, "batch"]
    ) -> Int[Tensor, "batch"]:
        """Return a token of each row.

        Args:
            logits: of the next token.
            uniform: a number in [0, 1) for each row, which decides its draw.
        """
        if not bool(logits.isfinite().any(-1).all()) or bool(logits.isnan().any()):
            raise DataError(
                "The model's logits are not numbers (NaN), so no token can be drawn. Look for what "
                "changed its activations."
            )
        if self.temperature == 0:
            return logits.argmax(-1)
        wide = logits.double()
        shares = ((wide - wide.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_p < 1:
            shares = _likeliest(shares, self.top_p)
        ends = shares.cumsum(-1)
        drawn = uniform.double()[:, None] * ends[:, -1:]
        found = torch.searchsorted(ends, drawn, right=True)[:, 0]
        # Rounding may lead past the last token that has any probability.
        last = (shares > 0).long().mul(torch.arange(shares.shape[1], device=shares.device)).amax(-1)
        return torch.minimum(found, last)


def _likeliest(shares: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Return shares with all at 0 but the fewest tokens that hold `top_p`; equals by their id."""
    vocab = shares.shape[1]
    # Sorting every token is most of a step's work; the probability is nearly always in the first.
    for n in (min(FIRST_SORTED, vocab), vocab):
        ordered = shares.topk(n, dim=-1).values
        # A token stays if those before it do not hold the probability yet.
        stays = ordered.cumsum(-1) - ordered < top_p
        if n == vocab or not bool(stays[:, -1].any()):
            break
    least = ordered.masked_fill(~stays, float("inf")).amin(-1, keepdim=True)
    above, equal = shares > least, shares == least
    room = stays.sum(-1, keepdim=True) - above.sum(-1, keepdim=True)
    return shares.where(above | (equal & (equal.cumsum(-1) <= room)), 0.0)


def check_prompts(prompts: Sequence[Sequence[int]], n: int, vocab_size: int, most: int) -> None:
    """Refuse what cannot be continued.

    Raises:
        ConfigError: `n` is below 1.
        DataError: there is no prompt, one is empty, or a token is not one of the model's.
        ShapeError: a prompt and `n` more tokens are more than the model reads.
    """
    if n < 1:
        raise ConfigError(f"`n`, the tokens to generate, must be at least 1; got {n}.")
    if not len(prompts):
        raise DataError("There is no prompt. Give a list of token ids for each sequence.")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"Prompt {i} is empty. Begin it with BOS, or with any token.")
        if odd := [t for t in prompt if not 0 <= t < vocab_size]:
            raise DataError(
                f"Prompt {i} has the token {odd[0]}; the model has tokens 0..{vocab_size - 1}."
            )
        if len(prompt) + n > most:
            raise ShapeError(
                f"Prompt {i} has {len(prompt)} tokens and {n} more are asked for; the model reads "
                f"{most}. Shorten the prompt or ask for fewer."
            )


# Runs a model on the tokens that are new and returns logits after the last of them. Between calls
# it remembers what came before; `keep` names the rows that go on.
Step = Callable[
    [Int[Tensor, "batch new"], Int[Tensor, "rows"] | None], Float[Tensor, "batch vocab"]
]


def continued(
    prompts: Sequence[Sequence[int]],
    n: int,
    begin: Callable[[], Step],
    sampling: Sampling,
    stop: frozenset[int],
    batch_rows: int,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, up to and with the first that stops it.

    Prompts of one length are run together, so that nothing is ever padded and a row gets what it
    would alone; rows leave the batch where they end.

    Args:
        prompts: token ids.
        n: tokens to add at most.
        begin: returns the step of a new batch.
        sampling: how tokens are drawn.
        stop: tokens that end a sequence.
        batch_rows: sequences run together at most.
    """
    streams = sampling.streams(len(prompts))
    found: list[list[int]] = [[] for _ in prompts]
    for rows in _groups(prompts, batch_rows):
        step, keep = begin(), None
        new = torch.tensor([list(prompts[i]) for i in rows])
        for _ in range(n):
            logits = step(new, keep)
            uniform = torch.cat([torch.rand(1, generator=streams[i]) for i in rows])
            tokens = sampling.pick(logits, uniform.to(logits.device)).tolist()
            for i, token in zip(rows, tokens, strict=True):
                found[i].append(token)
            going = [j for j, token in enumerate(tokens) if token not in stop]
            if not going:
                break
            keep = torch.tensor(going) if len(going) < len(rows) else None
            rows = [rows[j] for j in going]
            new = torch.tensor([[tokens[j]] for j in going])
    return found


def _groups(prompts: Sequence[Sequence[int]], batch_rows: int) -> Iterator[list[int]]:
    """Yield the numbers of prompts of one length, a batch at a time."""
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    for rows in by_length.values():
        for first in range(0, len(rows), batch_rows):
            yield rows[first : first + batch_rows]
