"""What a run will hold in memory, said before it starts."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from saekit.activations.passes import pass_rows
from saekit.core import machine
from saekit.core.errors import ResourceError
from saekit.models.base import LanguageModel
from saekit.training.fit import Fit
from saekit.training.run import Run

FLOAT = 4  # bytes
MOMENTS = {"adam": 2, "adamw": 2, "muon": 2, "signum": 1, "schedule_free": 2}
BATCH_COPIES = 8  # inputs, targets, predictions, errors, and their gradients
CODE_BYTES = 96  # of an entry: value, place, both orders, and gradients
TYPICAL_L0 = 64  # where the architecture does not say how many latents are on
SCORE_TOKENS = 512  # whose pre-activations are held at once


class Plan(NamedTuple):
    """Bytes by what holds them, beside the loaded language model; an estimate.

    Architectures that have a dense phase, as relu at its start, hold more then: up to three
    arrays of batch by latents, counted under "dense codes".
    """

    parts: dict[str, int]
    free: int | None  # bytes that can be had before the run; None where it is not known

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size(n)}" for name, n in self.parts.items() if n >= 1e6)
        free = "" if self.free is None else f" of {size(self.free)} free"
        return f"{size(self.total)}{free}: {parts or 'all small'}"

    def check(self) -> None:
        """Refuse a run that cannot fit.

        Raises:
            ResourceError: it needs more than is free.
        """
        if self.free is not None and self.total > self.free:
            raise ResourceError(f"The run does not fit in memory: it needs {self}. {self.advice}")

    @property
    def advice(self) -> str:
        """What to change."""
        largest = max(self.parts, key=lambda name: self.parts[name])
        return {
            "activations": "Lower `buffer_tokens`, or `tokens` below it.",
            "batch": "Lower `batch_tokens`.",
            "dense codes": "Lower `batch_tokens` or `sae.d_sae`, or use an architecture that "
            "chooses by rank (topk, batch_topk).",
        }.get(largest, "Lower `sae.d_sae`, or use `optimiser.kind` signum, which keeps less.")


def plan_fit(fit: Fit, device: torch.device | str) -> Plan:
    """Return what fitting holds beside the activations it reads."""
    cfg = fit.sae
    width = (cfg.d_in + cfg.d_out) * getattr(cfg, "n_sites", 1)
    weights = FLOAT * cfg.n_weights
    per_latent = cfg.d_sae * FLOAT
    on_cpu = torch.device(device).type == "cpu"
    screened = on_cpu and machine.bfloat16_products()
    bits = 16 if fit.optimiser.moments == "bfloat16" else 32
    l0 = cfg.latents_per_token
    code = (l0 or TYPICAL_L0) * CODE_BYTES
    tokens = fit.step_tokens
    return Plan(
        {
            "weights": weights,
            "gradients": weights,
            "moments": int(weights * MOMENTS[fit.optimiser.kind] * bits / 32),
            "mean weights": weights if fit.ema is not None else 0,
            "rounded weights": weights // 4 if screened else 0,
            "scores": min(tokens, SCORE_TOKENS) * per_latent,
            "batch": int(tokens * (width * FLOAT / 2 * BATCH_COPIES + code)),
            "dense codes": 3 * tokens * per_latent if l0 is None else 0,
        },
        machine.free_memory(device),
    )


def plan(run: Run, model: LanguageModel) -> Plan:
    """Return what a run holds beside the loaded model."""
    found = plan_fit(run, model.device)
    held = min(run.tokens, run.buffer_tokens)
    if run.mixing is not None:
        held = run.buffer_tokens + pass_rows(model, run.n_ctx) * run.n_ctx
    elif run.shuffle == "full" and run.tokens > run.buffer_tokens:
        held *= 2  # the window in use, and the next
    sides = 1 if run.pair.is_autoencoder else 2
    sites = getattr(run.sae, "n_sites", 1)
    item = torch.empty(0, dtype=model.dtype).element_size()
    activations = held * run.sae.d_in * sites * sides * item
    return found._replace(parts=found.parts | {"activations": activations})


@contextlib.contextmanager
def explained(what: Plan) -> Iterator[None]:
    """A context in which running out of memory ends with the plan and what to change.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(f"Out of memory; planned were {what}. {what.advice}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how the CPU allocator says it
            raise
        raise ResourceError(f"Out of memory; planned were {what}. {what.advice}") from error


def size(n: int) -> str:
    """Return bytes as `1.3 GB` or `25 MB`."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
