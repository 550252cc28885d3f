"""Text dealt row by row into streams, and the batches they make together.

The streams of a run, not its processes, decide what a step sees: row r of the text belongs to
stream r mod n, each stream is shuffled apart, and a batch is equal parts of all. However many
processes take the streams between them, every step has the same rows, so that a run can go on
on more or fewer processes than it began on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from saekit.activations.harvest import Counts, Harvest
from saekit.activations.shuffle import Batch, Shuffle, Stream
from saekit.core.errors import ConfigError, DataError
from saekit.core.processes import Mesh
from saekit.core.seeds import derive
from saekit.data.tokenise import TokenStream
from saekit.training.run import Run

Opener = Callable[[Run, Harvest], Stream]


class Deal(NamedTuple):
    """Which streams a process reads, and which of their rows it trains on."""

    own: range
    gathered: bool  # processes that share latents read other streams, and swap rows
    part: int = 0
    parts: int = 1  # of each batch, where there are more data groups than streams


def deal(n_streams: int, mesh: Mesh) -> Deal:
    """Return what a process reads.

    As many streams as processes, or a multiple: each is read once. Fewer: processes that need
    the same rows read the same stream.

    Raises:
        ConfigError: streams and data groups do not divide each other.
    """
    groups, everyone = mesh.data.size, mesh.every
    if n_streams % everyone.size == 0:
        share = everyone.share(n_streams)
        return Deal(range(share.start, share.stop), gathered=True)
    if n_streams % groups == 0:
        share = mesh.data.share(n_streams)
        return Deal(range(share.start, share.stop), gathered=False)
    if groups % n_streams == 0:
        parts = groups // n_streams
        one = mesh.data.rank // parts
        return Deal(range(one, one + 1), False, mesh.data.rank % parts, parts)
    raise ConfigError(
        f"The text is dealt into {n_streams} streams and rows go to {groups} groups of processes: "
        f"one must divide the other. Use {n_streams} or a divisor of it, or begin a run with "
        f"--set streams={groups}."
    )


def open_streams(run: Run, harvest: Harvest, mesh: Mesh, open_one: Opener) -> Stream:
    """Return the training batches of one process.

    Args:
        run: the whole run; what each stream serves is an equal part of it.
        harvest: of the whole text, calibrated.
        mesh: the processes.
        open_one: shuffles what it is given.

    Raises:
        ConfigError: tokens or batches cannot be dealt equally.
        DataError: the text of a stream is too short.
    """
    n = run.streams or 1
    if n == 1 and mesh.every.size == 1:
        return open_one(run, harvest)
    dealt = deal(n, mesh)
    part = _part_of(run, n, dealt)
    found: dict[int, Stream] = {}
    harvests: dict[int, Harvest] = {}
    for i in dealt.own:
        own, seed = harvest, run.order
        if n > 1:
            if not isinstance(harvest.stream, TokenStream):
                raise ConfigError(
                    f"A cache of activations is read by one process as one stream; got "
                    f"{mesh.every.size} processes and {n} streams. Train on the model."
                )
            own = Harvest(
                harvest.model,
                harvest.stream.dealt(i, n),
                run.pair,
                run.rule,
                batch_rows=harvest.batch_rows,
                fitted=harvest.rules,
            )
            own.scalings, seed = harvest.scalings, derive(run.order, "stream", i)
        with _named(i, n):
            found[i], harvests[i] = open_one(replace(part, order_seed=seed), own), own
    return Dealt(found, harvests, n, mesh, dealt)


def counts_of(stream: Stream, harvest: Harvest) -> Counts:
    """Return what became of the tokens of a run, over all streams. Collective."""
    return stream.counts() if isinstance(stream, Dealt) else harvest.counts


def is_own(stream: Stream, name: str) -> bool:
    """Return whether a stream needs a tensor of a checkpoint."""
    return not isinstance(stream, Dealt) or stream.owns(name)


@final
class Dealt:
    """The streams of one process side by side, as one.

    Args:
        streams: those of this process, by number.
        harvests: where each is from.
        n_streams: of the run.
        mesh: the processes.
        dealt: what this process reads and trains on.
    """

    def __init__(
        self,
        streams: dict[int, Stream],
        harvests: dict[int, Harvest],
        n_streams: int,
        mesh: Mesh,
        dealt: Deal,
    ):
        self.streams, self.harvests, self.n = streams, harvests, n_streams
        self.mesh, self.dealt = mesh, dealt
        for stream in streams.values():
            if isinstance(stream, Shuffle):
                stream.may_end = False
        readers = [range(dealt.own.start, dealt.own.stop)]
        if mesh.every.size > 1:
            here = torch.tensor([dealt.own.start, dealt.own.stop], device=mesh.every.device)
            readers = [range(a, b) for a, b in mesh.every.gather(here).tolist()]
        # Of those that read a stream, the first answers for it.
        self.kept = [i for i in dealt.own if not any(i in r for r in readers[: mesh.every.rank])]

    @property
    def served_tokens(self) -> int:
        """Tokens served so far, by all streams."""
        return self.n * next(iter(self.streams.values())).served_tokens

    def batch(self) -> Batch:
        """Return the rows that this process trains on next."""
        served = []
        for i, stream in self.streams.items():
            with _named(i, self.n):
                served.append(stream.batch())
        x = self._rows([x for x, _ in served])
        alike = all(x is y for x, y in served)
        return x, x if alike else self._rows([y for _, y in served])

    def _rows(self, parts: list[Tensor]) -> Tensor:
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.dealt.gathered and self.mesh.latent.size > 1:
            return self.mesh.latent.gather(rows).flatten(0, 1)
        if self.dealt.parts == 1:
            return rows
        size = len(rows) // self.dealt.parts
        return rows[self.dealt.part * size : (self.dealt.part + 1) * size]

    def counts(self) -> Counts:
        """Return what became of the tokens of all streams. Collective."""
        total = Counts()
        for i in self.kept:
            total = total.plus(self.harvests[i].counts)
        here = torch.tensor(list(total), dtype=torch.int64, device=self.mesh.every.device)
        return Counts(*self.mesh.every.sum(here).tolist())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what goes on from here needs, of the streams this process answers for."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for i in self.kept:
            found, numbers = self.streams[i].state()
            tensors |= {self._key(i, name): value for name, value in found.items()}
            values |= numbers if self.n == 1 else {str(i): numbers}
        return tensors, values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from where the streams of this process were, whoever read them then."""
        for i, stream in self.streams.items():
            start = self._key(i, "")
            own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            stream.load(own, values if self.n == 1 else values[str(i)])

    def owns(self, name: str) -> bool:
        """Return whether a tensor of a checkpoint is of a stream of this process."""
        return any(name.startswith(self._key(i, "")) for i in self.streams)

    def _key(self, i: int, name: str) -> str:
        return name if self.n == 1 else f"{i}.{name}"


def _part_of(run: Run, n: int, dealt: Deal) -> Run:
    """Return the run of one stream."""
    pieces = n * dealt.parts
    for name, value in (("tokens", run.tokens), ("batch_tokens", run.step_tokens)):
        if value % pieces:
            raise ConfigError(
                f"`{name}` must be a multiple of {pieces}, so that every process has as many; got "
                f"{value:,}. Set it to {max(value // pieces, 1) * pieces:,}."
            )
    if run.step_tokens // pieces < run.pair.event_tokens or (
        dealt.parts > 1 and run.pair.event_tokens > 1
    ):
        raise ConfigError(
            f"Batches of {run.step_tokens:,} tokens in {pieces} parts do not hold whole windows of "
            f"{run.pair.event_tokens}. Raise `batch_tokens`, or use fewer processes."
        )
    if n == 1:
        return run
    return replace(
        run,
        tokens=run.tokens // n,
        batch_tokens=run.step_tokens // n,
        streams=None,
        buffer_tokens=run.buffer_tokens // n,
        resample=None,
    )


@contextmanager
def _named(i: int, n: int) -> Iterator[None]:
    """A context that says of which stream an error about the text is."""
    try:
        yield
    except DataError as error:
        if n == 1:
            raise
        raise DataError(
            f"In stream {i} of {n}, each with an equal part of the tokens asked: {error}"
        ) from error
