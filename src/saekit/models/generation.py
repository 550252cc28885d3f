"""Generation: how sequences of tokens are continued, one token at a time."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.seeds import generator

_FEW_TOKENS = 1024  # of a vocabulary, that a nucleus is looked for in first
_ANY = 80.0
_LEAST = 1e-100  # of a temperature; below it numbers end, and draws are the same


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn from its logits.

    Args:
        temperature: logits are divided by it; 0 takes the largest, the lowest id among equals.
        top_p: draw from the fewest tokens that hold this probability together, in (0, 1].
        repetition_penalty: logits of tokens that the sequence has, prompt included, are divided
            by it where above 0 and multiplied where below; 1 changes nothing.
        seed: decides every draw. Sequence i draws from a stream of its own, whatever else is in the
            batch; several seeds are one for each sequence.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Holtzman et al. 2020, arXiv:1904.09751 (nucleus sampling); Keskar et al. 2019,
        arXiv:1909.05858 (repetition penalty; as transformers, negative logits are multiplied,
        where the paper divides them too).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"`temperature` must be 0 or more; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1]; got {self.top_p}.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(
                f"`repetition_penalty` must be above 0, and 1 for none; got "
                f"{self.repetition_penalty}."
            )

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

    def penalised(
        self, logits: Float[Tensor, "batch vocab"], rows: Sequence[Sequence[int]]
    ) -> Float[Tensor, "batch vocab"]:
        """Return logits after the repetition penalty.

        Args:
            logits: of the next token.
            rows: the tokens that each sequence has.
        """
        if self.repetition_penalty == 1:
            return logits
        found = logits.clone()
        for row, ids in zip(found, rows, strict=True):
            seen = torch.tensor(sorted(set(ids)), device=row.device)
            there = row[seen]
            weak = there < 0
            row[seen] = there * self.repetition_penalty ** torch.where(weak, 1.0, -1.0)
        return found

    def race(
        self, logits: Float[Tensor, "vocab"], uniform: Float[Tensor, "vocab"], off: float
    ) -> tuple[int, bool]:
        """Return the token of one row, and whether logits that are off a little give it too.

        Each token runs for a time drawn from an exponential distribution, divided by its share,
        and the first to arrive is taken: it has the same distribution as `pick`. There small
        errors of the logits move the ends of all intervals, and in a vocabulary of 49,152 tokens
        change about one draw in 200; here a draw changes only if two tokens arrive together.

        Args:
            logits: of the next token, finite or -inf.
            uniform: a number in [0, 1) for each token, in double precision.
            off: how far logits may be off.

        Source:
            Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir. Differs: one
            item is taken.
        """
        wide = logits.double()
        top = float(wide.amax())
        if not math.isfinite(top):
            raise _not_numbers()
        first = int(wide.argmax())
        if self.temperature == 0:
            near = int((wide >= top - 2 * off).sum())
            return first, near == 1 or not off
        temperature = max(self.temperature, _LEAST)
        wide = (wide - top) / temperature
        near = 2 * off / temperature
        inside, edge = _nucleus(wide, self.top_p, near)
        # An exponential time is at least its uniform number, so that most tokens are seen to
        # arrive later than the likeliest one without a logarithm.
        behind = float(_arrival(wide[first], uniform[first]))
        # Beyond e^80 every token could, and an exponential of much more has no number.
        could = wide.float().exp() * math.exp(min(near, _ANY) - behind + 1e-5) >= uniform
        could |= near > _ANY
        could[first] = True
        found = (could & (inside | edge)).nonzero()[:, 0]
        scores = _arrival(wide[found], uniform[found])
        real = scores.masked_fill(~inside[found], -torch.inf)
        best = int(real.argmax())
        others = scores > real[best] - near
        others[best] = False
        return int(found[best]), not bool(others.any()) and not bool(edge[found[best]])

    def pick(
        self, logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, "batch"]
    ) -> Int[Tensor, "batch"]:
        """Return a token of each row.

        Args:
            logits: of the next token.
            uniform: a number in [0, 1) for each row, which decides its draw.
        """
        if not bool(logits.isfinite().any(-1).all()) or bool(logits.isnan().any()):
            raise _not_numbers()
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


def _arrival(log_share: Tensor, uniform: Tensor) -> Tensor:
    """Return the logarithm of 1 over the time at which tokens arrive."""
    return log_share - (-(-uniform).log1p()).log()


def _nucleus(log_shares: Tensor, top_p: float, near: float) -> tuple[Tensor, Tensor]:
    """Return which tokens hold a probability together, and which may or may not be among them."""
    inside = torch.ones_like(log_shares, dtype=torch.bool)
    edge = torch.zeros_like(inside)
    if top_p == 1:
        return inside, edge
    shares = log_shares.softmax(-1)
    # Of a large vocabulary the likeliest few usually hold enough, and they alone are put in order.
    for most in (_FEW_TOKENS, len(shares)):
        ordered, order = shares.topk(min(most, len(shares)))
        before = ordered.cumsum(-1) - ordered
        if float(before[-1]) > top_p + near:
            break
    inside = edge.scatter(0, order, before < top_p)
    return inside, edge.scatter(0, order, (before - top_p).abs() < near)


def _not_numbers() -> DataError:
    return DataError(
        "The model's logits are not numbers (NaN), so no token can be drawn. Look for what "
        "changed its activations."
    )


def _likeliest(shares: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Return shares with all at 0 but the fewest tokens that hold `top_p`; equals by their id."""
    vocab = shares.shape[1]
    # Sorting every token is most of a step's work; the probability is nearly always in the first.
    for n in (min(_FEW_TOKENS, vocab), vocab):
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


class Row:
    """A sequence that is being continued.

    Args:
        number: its place among all sequences.
        prompt: token ids that it begins with.
        stream: where it draws from.
    """

    def __init__(self, number: int, prompt: Sequence[int], stream: torch.Generator):
        self.number, self.stream = number, stream
        self.ids = list(prompt)
        self.n_prompt = len(prompt)

    def ended(self, n: int, stop: frozenset[int]) -> bool:
        """Whether the last token ends it, or it has `n` new ones."""
        return self.ids[-1] in stop or len(self.ids) - self.n_prompt >= n

    @property
    def new(self) -> list[int]:
        """The tokens that were added."""
        return self.ids[self.n_prompt :]


@runtime_checkable
class Ages(Protocol):
    """A model that continues rows of unlike lengths together, a token at a time."""

    def enter(self, place: int, before: Sequence[int]) -> None:
        """Put a new row in a place of the batch, the next one or that of a row that ended.

        Args:
            place: of the row.
            before: its tokens but for the last, which the next step reads.
        """
        ...

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these."""
        ...

    def step(self, tokens: Sequence[int]) -> Float[Tensor, "batch vocab"]:
        """Read a token of each row and return the logits of the next."""
        ...


# Draws the next token of each row.
Draw = Callable[[Float[Tensor, "batch vocab"], Sequence[Row]], list[int]]


def drawn_alike(sampling: Sampling) -> Draw:
    """Return draws by intervals of probability, one number a token."""

    def draw(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        uniform = torch.cat([torch.rand(1, generator=row.stream) for row in rows])
        logits = sampling.penalised(logits, [row.ids for row in rows])
        return sampling.pick(logits, uniform.to(logits.device)).tolist()

    return draw


def drawn_surely(
    sampling: Sampling, off: float, alone: Callable[[Sequence[int]], Float[Tensor, "vocab"]]
) -> Draw:
    """Return draws that are the same whatever the batch, up to `off` in its logits.

    Where an error of the logits could change a draw, they are computed again from the row alone.

    Args:
        sampling: how.
        off: how far logits of a batch may be from those of the row alone; 0 trusts them.
        alone: returns the logits after a row, from that row alone.
    """
    # A penalty multiplies logits, and the errors in them.
    off *= max(sampling.repetition_penalty, 1 / sampling.repetition_penalty)

    def draw(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        logits = sampling.penalised(logits, [row.ids for row in rows]).cpu()
        found = []
        for row, those in zip(rows, logits, strict=True):
            uniform = torch.rand(len(those), dtype=torch.float64, generator=row.stream)
            token, sure = sampling.race(those, uniform, off)
            if not sure and off:
                those = sampling.penalised(alone(row.ids)[None], [row.ids])[0].cpu()
                token, _ = sampling.race(those, uniform, 0.0)
            found.append(token)
        return found

    return draw


def of_all_ages(
    rows: Iterator[Row], n: int, ages: Ages, draw: Draw, stop: frozenset[int], batch_rows: int
) -> Iterator[Row]:
    """Yield rows as they end; in the place of each the next one enters at once.

    Args:
        rows: what to continue, read as places become free.
        n: tokens to add at most.
        ages: the model.
        draw: how tokens are drawn.
        stop: tokens that end a sequence.
        batch_rows: places.
    """
    going: list[Row] = []
    for row in itertools.islice(rows, batch_rows):
        ages.enter(len(going), row.ids[:-1])
        going.append(row)
    while going:
        logits = ages.step([row.ids[-1] for row in going])
        for row, token in zip(going, draw(logits, going), strict=True):
            row.ids.append(token)
        left = []
        for place, row in enumerate(going):
            if not row.ended(n, stop):
                left.append(place)
                continue
            yield row
            if (fresh := next(rows, None)) is not None:
                ages.enter(place, fresh.ids[:-1])
                going[place] = fresh
                left.append(place)
        if 0 < len(left) < len(going):
            ages.keep(left)
        if len(left) < len(going):
            going = [going[place] for place in left]


def of_one_age(
    rows: Iterable[Row],
    n: int,
    begin: Callable[[], Step],
    draw: Draw,
    stop: frozenset[int],
    batch_rows: int,
) -> Iterator[Row]:
    """Yield rows as they end; neighbours whose prompts have one length are run together.

    Nothing is ever padded, and a row gets what it would alone; rows leave the batch where they end.

    Args:
        rows: what to continue.
        n: tokens to add at most.
        begin: returns the step of a new batch.
        draw: how tokens are drawn.
        stop: tokens that end a sequence.
        batch_rows: sequences run together at most.
    """
    for _, alike in itertools.groupby(rows, lambda row: row.n_prompt):
        while going := list(itertools.islice(alike, batch_rows)):
            step, keep = begin(), None
            new = torch.tensor([row.ids for row in going])
            while going:
                for row, token in zip(going, draw(step(new, keep), going), strict=True):
                    row.ids.append(token)
                yield from (row for row in going if row.ended(n, stop))
                left = [j for j, row in enumerate(going) if not row.ended(n, stop)]
                keep = torch.tensor(left) if len(left) < len(going) else None
                going = [going[j] for j in left]
                new = torch.tensor([[row.ids[-1]] for row in going])


def continued(
    prompts: Sequence[Sequence[int]],
    n: int,
    begin: Callable[[], Step],
    sampling: Sampling,
    stop: frozenset[int],
    batch_rows: int,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, up to and with the first that stops it.

    Args: as of `of_one_age`.
    """
    streams = sampling.streams(len(prompts))
    rows = [Row(i, *row) for i, row in enumerate(zip(prompts, streams, strict=True))]
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(row.n_prompt, []).append(row)
    ordered = itertools.chain(*by_length.values())
    for _ in of_one_age(ordered, n, begin, drawn_alike(sampling), stop, batch_rows):
        pass
    return [row.new for row in rows]
