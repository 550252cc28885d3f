"""How much memory an evaluation needs beside the model, said before it starts."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from saekit.activations.passes import HELD
from saekit.core import machine
from saekit.core.errors import ResourceError
from saekit.evals._replacing import HELD_BYTES, LOGIT_BYTES
from saekit.evals.base import Subject

if TYPE_CHECKING:
    from saekit.evals.core import Core

PASS_BYTES = 10**9  # of a forward pass and the SAE's work on its rows; one row may need more
FLOAT, DOUBLE = 4, 8  # bytes
EVENT_COPIES = 6  # of inputs, targets and predictions in float32: arranged, by block, errors
DENSE_COPIES = 3  # of codes with an entry a latent: scores, codes, what is on
LOGIT_COPIES = 3  # clean, spliced, and what is read of them


class Memory(NamedTuple):
    """Bytes by what holds them, beside the loaded language model; an estimate."""

    parts: dict[str, int]
    free: int | None  # bytes free before the evaluation; None where it is not known

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {n / 1e6:.0f} MB" for name, n in self.parts.items() if n >= 1e6)
        free = "" if self.free is None else f" of {self.free / 1e9:.1f} GB free"
        return f"{self.total / 1e9:.2f} GB{free}: {parts or 'all small'}"


class Passes(NamedTuple):
    """How many rows go through the model at once, and what is then held."""

    rows: int
    memory: Memory

    def say(self, *, shown: bool) -> None:
        """Refuse what does not fit, and say on stderr what is planned.

        Raises:
            ResourceError: it needs more than is free.
        """
        free = self.memory.free
        if free is not None and self.memory.total > free:
            raise ResourceError(
                f"The evaluation does not fit in memory: it needs {self.memory}. Close other "
                f"programs, use an SAE that was trained with a shorter context, or use another "
                f"device."
            )
        if shown:
            sys.stderr.write(f"memory    {self.memory}; {self.rows} rows a pass\n")


def plan(subjects: Sequence[Subject], n_ctx: int, n_rows: int, core: "Core") -> Passes:
    """Return rows of a pass, at most those of `core`, and what an evaluation then holds.

    Args:
        subjects: the SAEs, which are run on the same rows.
        n_ctx: tokens of a row.
        n_rows: rows of the evaluation.
        core: its settings.
    """
    lm = subjects[0].lm
    assert lm is not None  # `check` refuses it
    item = torch.empty(0, dtype=lm.dtype).element_size()
    sites = {site for one in subjects for way in one.ways for site in (way.read, way.write)}
    of_pass = item * lm.d_model * (HELD + len(sites)) * n_ctx + lm.attention_bytes(n_ctx)
    of_sae = n_ctx * max(_token_bytes(one) for one in subjects)
    rows = max(1, min(core.batch_rows, PASS_BYTES // (of_pass + of_sae), max(n_rows, 1)))
    widths = sum(len(one.ways) * one.sae.cfg.d_out for one in subjects)
    logits = LOGIT_COPIES * max(LOGIT_BYTES, FLOAT * lm.vocab_size) if core.ce_tokens else 0
    parts = {
        "model pass": rows * of_pass,
        "batch": rows * of_sae,
        "logits": min(logits, LOGIT_COPIES * FLOAT * lm.vocab_size * rows * n_ctx),
        "predictions": min(HELD_BYTES, FLOAT * rows * n_ctx * 2 * widths) if core.ce_tokens else 0,
        "sums": 2 * 3 * DOUBLE * widths * core.n_blocks,
    }
    return Passes(rows, Memory(parts, machine.free_memory(lm.device)))


def _token_bytes(subject: Subject) -> int:
    """Return how many bytes an SAE's work on one token takes."""
    cfg = subject.sae.cfg
    width = len(subject.ways) * (cfg.d_in + cfg.d_out)
    chosen = getattr(cfg, "k", None) is not None  # scores are made and ranked in pieces
    return FLOAT * (EVENT_COPIES * width + (0 if chosen else DENSE_COPIES * cfg.d_sae))
