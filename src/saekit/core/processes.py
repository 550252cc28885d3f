"""Ranks: the processes that train one SAE together. Alone, nothing here sends anything.

`torchrun` starts the processes and says in their environment who is who; `session` joins them
over torch.distributed. What crosses processes goes through a `Group`, whose functions give back
what they were given where the group is one process: no code asks whether there are several.

Two conventions make gradients right. *Within a latent group* every process computes the same
loss from sums over all, so the backward pass of such a sum is the identity and sends nothing.
*Between data groups* a loss is a mean over the rows of one process, and gradients are averaged
once, after the backward pass; a term that is not linear in rows takes its means over all first
(`averaged`), whose backward pass is the identity as well.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore as _PrefixStore
from torch.distributed.rendezvous import rendezvous as _rendezvous
from typing_extensions import override

from saekit.core.errors import ConfigError, SaekitError, TrainingError

TIMEOUT_SECONDS = 600.0  # a collective that waits longer ends the run: one of the others is stuck
TIMEOUT_VARIABLE = "SAEKIT_RANKS_TIMEOUT_SECONDS"
LAST_WORDS_SECONDS = 3.0  # for a process that failed to say why, before the others end
_FAILED = "saekit/failed"

# Its name from PyTorch 2.13 on, and the one before.
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Some of the processes, this one among them.

    Args:
        rank: of this process in the group, from 0.
        size: processes in the group.
        handle: torch.distributed's; None is all processes.
        device: where what is sent must lie.
    """

    rank: int = 0
    size: int = 1
    handle: Any = None
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process is the group's first, the only one that writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return which of `n` things, dealt in equal runs, are those of this process."""
        part = n // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the group, without a graph."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the group, without a graph."""
        return x if self.size == 1 else self.sum(x) / self.size

    def min(self, x: Tensor) -> Tensor:
        """Return the smallest in the group, element by element."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def max(self, x: Tensor) -> Tensor:
        """Return the largest in the group, element by element."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def any(self, fact: bool) -> bool:
        """Return whether something is so for one of the group."""
        return bool(self.largest(int(fact)))

    def largest(self, n: int) -> int:
        """Return the largest number in the group."""
        if self.size == 1:
            return n
        return int(self.max(torch.tensor([n], dtype=torch.int32, device=self.device)).item())

    def joined(self, x: Tensor) -> Tensor:
        """Return the sum over the group; its gradient is that of each part, as it is."""
        return x if self.size == 1 else _Sum.apply(x, self, 1.0)  # type: ignore[return-value]

    def averaged(self, x: Tensor) -> Tensor:
        """Return the mean over the group, whose gradient each process takes as its own.

        For what is not linear in rows: gradients are averaged after the backward pass.
        """
        return x if self.size == 1 else _Sum.apply(x, self, 1 / self.size)  # type: ignore[return-value]

    def gather(self, x: Tensor) -> Tensor:
        """Return the tensors of all, which have one shape, in order: ``[size, *shape]``."""
        if self.size == 1:
            return x[None]
        out = x.new_empty(self.size, *x.shape)
        flat = out.view(self.size * x.numel())
        with talking():
            _gather_into(flat, x.detach().reshape(-1), group=self.handle)
        return out

    def collect(self, x: Tensor) -> list[Tensor] | None:
        """Return the tensors of all on the first process of the group, None on the others."""
        if self.size == 1:
            return [x]
        whole = x.detach().contiguous()
        out = [torch.empty_like(whole) for _ in range(self.size)] if self.first else None
        with talking():
            dist.gather(whole, out, group=self.handle, group_dst=0)
        return out

    def add_in_place(self, parts: Sequence[Tensor], scale: float = 1.0) -> None:
        """Replace contiguous tensors by their sums over the group, times `scale`."""
        if self.size == 1:
            return
        with talking():
            sent = [dist.all_reduce(x, group=self.handle, async_op=True) for x in parts]
            for work in sent:
                if work is not None:
                    work.wait()
        for x in parts:
            x.mul_(scale)

    def from_first(self, x: Tensor) -> Tensor:
        """Return the tensor of the group's first process."""
        if self.size == 1:
            return x
        out = x.detach().to(self.device, copy=True).contiguous()
        with talking():
            dist.broadcast(out, group=self.handle, group_src=0)
        return out.to(x.device)

    def texts(self, text: str) -> list[str]:
        """Return the texts of all."""
        if self.size == 1:
            return [text]
        data = text.encode()
        sizes = self.gather(torch.tensor(len(data), device=self.device)).tolist()
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8, device=self.device)
        padded[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        return [
            bytes(row[:n].tolist()).decode()
            for row, n in zip(self.gather(padded).cpu(), sizes, strict=True)
        ]

    def on_first(self, action: Callable[[], T]) -> T | None:
        """Do something on the first process alone while the others wait; None on those.

        Raises:
            TrainingError: on the others, where it failed. The first raises what it met.
        """
        if self.size == 1:
            return action()
        result, met = None, None
        if self.first:
            try:
                result = action()
            except Exception as error:  # noqa: BLE001 - raised below, after the others know
                met = error
        said = self.texts("" if met is None else f"{met}")[0]
        if met is not None:
            raise met
        if said:
            raise TrainingError(f"The first process stopped: {said}")
        return result

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        if self.size == 1:
            return x
        out = x.detach().clone(memory_format=torch.contiguous_format)
        with talking():
            dist.all_reduce(out, op=op, group=self.handle)
        return out


@dataclass(frozen=True)
class Mesh:
    """How processes share a training: rows between data groups, latents within a latent group.

    Args:
        data: the processes that hold the same latents and see other rows.
        latent: those that see the same rows and hold other latents.
        every: all of them.
        device_mesh: torch's, of axes "data" and "latent"; None on one process.
    """

    data: Group = Group()
    latent: Group = Group()
    every: Group = Group()
    device_mesh: Any = None


ALONE = Mesh()
_state: dict[str, Any] = {"world": Group(), "store": None}


def world() -> Group:
    """Return all processes of the session; one without a session."""
    return _state["world"]


def first() -> bool:
    """Return whether this process is the one that writes."""
    return world().first


def restarted() -> bool:
    """Return whether torchrun started this process again after one was lost."""
    return _starts() > 0


def _starts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def own_device(name: str) -> str:
    """Return the device of this process: under torchrun each has a CUDA device of its own."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name


@contextlib.contextmanager
def session(device: torch.device | str = "cpu") -> Iterator[Group]:
    """A context in which the processes that torchrun started can talk; nothing where it did not.

    gloo carries what lies on CPUs, nccl what lies on CUDA devices. A process that fails says
    why before it ends, and the others end with its words.

    Raises:
        ConfigError: a timeout was set that is none.
        TrainingError: another process failed or was lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield world()
        return
    _join(torch.device(device))
    try:
        yield world()
    except BaseException as error:
        _last_words(error)
        raise
    dist.destroy_process_group()
    _state.update(world=Group(), store=None)


def _join(device: torch.device) -> None:
    limit = timedelta(seconds=_timeout())
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    store, rank, size = next(_rendezvous("env://", timeout=limit))
    # torchrun's store outlives restarts; addresses of processes that are gone must not be read.
    store = _PrefixStore(f"start-{_starts()}", store)
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=limit
    )
    _state["store"] = store
    _state["world"] = Group(rank, size, None, device if cuda else torch.device("cpu"))


def _timeout() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given or TIMEOUT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE} must be seconds above 0; got {given!r}.")
    return seconds


def _last_words(error: BaseException) -> None:
    """Leave for the others why this process fails; the first to fail is heard."""
    text = str(error) if isinstance(error, SaekitError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(Exception):  # the store may be gone with the process that held it
        _state["store"].compare_set(_FAILED, "", f"process {world().rank}: {text}")


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """A context around what needs the other processes.

    Raises:
        TrainingError: one of them failed or was lost.
    """
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(_why(error)) from error


def _why(error: RuntimeError) -> str:
    deadline, store = time.monotonic() + LAST_WORDS_SECONDS, _state["store"]
    while store is not None and time.monotonic() < deadline:
        try:
            if store.check([_FAILED]):
                return f"Another process ended the run. {store.get(_FAILED).decode()}"
        except Exception:  # noqa: BLE001 - the store went with the process that held it
            break
        time.sleep(0.05)
    about = (str(error).strip().splitlines() or ["no more is known"])[0]
    return f"A process of this run was lost or hangs ({about}). Go on from the last checkpoint."


def leave(code: int) -> None:
    """End a process of several at once, with what it printed written out.

    gloo's threads may abort a process while the interpreter shuts down, after all work is
    done; such a process would count as failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Sum(torch.autograd.Function):
    """A sum over a group, scaled, whose backward pass is the identity."""

    @override
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, scale: float) -> Tensor:
        return group.sum(x).mul_(scale)

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None
