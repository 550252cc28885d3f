"""H_pos of events: how far back a latent looks where it is strongest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, SaekitError
from saekit.core.progress import Progress
from saekit.core.result import Table
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.locality.events.base import Event
from saekit.studies.locality.influence.base import Influences, influence
from saekit.studies.locality.influence.entropy import entropy_bits
from saekit.studies.locality.runs.journal import Journal

OK, OFF = "ok", "feature_below_threshold_at_peak"
SHORT = "one_token_only"  # its entropy is 0 whatever the latent does
ERROR = "compute_error"
ERROR_CHARS = 80  # of a message in a table


class EventScores(NamedTuple):
    """Events with their influences in windows of one length.

    Influences are aligned at the peak: column -1 is the peak itself, NaN before the window.
    """

    events: list[Event]
    n_ctx: int
    J: Float[Tensor, "m n_ctx"]
    n_positions: Int[Tensor, "m"]
    activation: Float[Tensor, "m"]  # in the scored window, act units; NaN where it failed
    H: Float[Tensor, "m"]  # bits; NaN unless the status is ok
    bos_share: Float[Tensor, "m"]  # of the influence, BOS included; 0 without BOS
    status: list[str]

    @property
    def ok(self) -> Tensor:
        """Which events have an entropy."""
        return torch.tensor([s == OK for s in self.status], dtype=torch.bool)

    @property
    def failures(self) -> list[str]:
        """Messages of the events that could not be computed."""
        return [s for s in self.status if _failed(s)]


@dataclass(frozen=True, kw_only=True)
class EventEntropy(Config):
    """Entropy of the influence of a window's tokens on a latent at its last token.

    The window is the last `n_ctx` tokens of the document up to the peak, fewer where the
    document begins later: it never reaches into another text, and `n_positions` says how
    long it is. A window of one token has entropy 0 whatever the latent does, so it is not
    scored. The activation is computed anew in the window, and the event is scored where
    it is over `threshold` there. BOS goes before the window where the SAE was trained so;
    it is no position of the profile, and its share of the influence is told apart.

    Args:
        n_ctx: tokens of a window, the peak included, without BOS.
        threshold: least activation in the window, act units; it must be over this.
        batch_tokens: tokens of one pass; memory grows with it.

    Raises:
        ConfigError: a number is out of range.

    Source:
        lccqqqqq/sae-analysis, topact_entropy.
        Differs: the published windows reach over the border of a document and take the
        activation of another context than they score.
    """

    name: ClassVar[str] = "event_entropy"
    n_ctx: int = setting(128, least=2, unit="tokens")
    threshold: float = setting(0.0, least=0)
    batch_tokens: int = setting(2048, least=1)

    def score(  # noqa: PLR0913 - what is scored, and how the machine goes about it
        self,
        lm: LanguageModel,
        sae: SAE,
        site: Site | str,
        events: Sequence[Event],
        *,
        bos_id: int | None = None,
        forgets: Sequence[str] = (),
        memory_bytes: int | None = None,
        journal: Journal | None = None,
        shown: bool = False,
    ) -> EventScores:
        """Return the influences and entropies of some events, in the order given.

        Windows of one length go through the model together. What fails is said in `status`,
        and no other event suffers from it.

        Args:
            lm: the model; gradients are best in float32.
            sae: of single tokens, reading `site`.
            site: where.
            events: with at least one token each.
            bos_id: token before every window; None for none.
            forgets: what the encode leaves out, as `influence` takes it.
            memory_bytes: of graph and gradients; None: half of what is free.
            journal: where batches that are done are kept, and read from; None keeps none.
            shown: show progress on stderr.

        Raises:
            ConfigError: the windows are longer than the model reads.
        """
        extra = int(bos_id is not None)
        longest = max((min(len(e.ids), self.n_ctx) for e in events), default=0) + extra
        if longest > lm.n_ctx_max:
            raise ConfigError(
                f"{lm.name} reads {lm.n_ctx_max} tokens; windows of {longest}, BOS included, are "
                f"longer. Lower `n_ctx`."
            )
        out = _blank(events, self.n_ctx)

        def ask(tokens: Tensor, pairs: Tensor) -> Influences:
            return influence(
                lm,
                sae,
                tokens,
                site,
                latents=pairs,
                position=-1,
                threshold=self.threshold,
                forgets=forgets,
                memory_bytes=memory_bytes,
            )

        by_length: dict[int, list[int]] = {}
        for i, event in enumerate(events):
            by_length.setdefault(min(len(event.ids), self.n_ctx), []).append(i)
        progress = Progress(f"N={self.n_ctx}", len(events), "events", shown=shown)
        n_batches = 0
        for length, members in sorted(by_length.items()):
            size = max(1, self.batch_tokens // (length + extra))
            for begin in range(0, len(members), size):
                batch = members[begin : begin + size]
                unit = f"ctx{self.n_ctx}_{n_batches:05d}"
                n_batches += 1
                if journal is not None and _restored(out, batch, journal.get(unit)):
                    progress.add(len(batch))
                    continue
                # Of a batch that only passed in parts the last bits are others: it is done
                # again when the run is gone on with.
                if self._fill(out, batch, length, ask, bos_id) and journal is not None:
                    journal.put(unit, _kept(out, batch))
                progress.add(len(batch))
        progress.close()
        return out

    def _fill(
        self,
        out: EventScores,
        batch: list[int],
        length: int,
        ask: Callable[[Tensor, Tensor], Influences],
        bos_id: int | None,
    ) -> bool:
        """Score some events of one length and return whether they went through together."""
        head = [] if bos_id is None else [bos_id]
        ids = [head + list(out.events[i].ids[-length:]) for i in batch]
        pairs = torch.tensor([[n, out.events[i].latent] for n, i in enumerate(batch)])
        try:
            found = ask(torch.tensor(ids), pairs)
        except ConfigError:
            raise
        except (SaekitError, RuntimeError) as error:
            if len(batch) > 1:  # find out which it is, so that no other is lost with it
                for i in batch:
                    self._fill(out, [i], length, ask, bos_id)
                return False
            out.n_positions[batch[0]] = length
            message = " ".join(str(error).split())
            out.status[batch[0]] = f"{ERROR}: {message}"[:ERROR_CHARS]
            return False
        where = torch.tensor(batch)
        out.n_positions[where] = length
        out.activation[where] = 0.0
        at = where[found.window]
        J = found.J.float().cpu()
        out.activation[at] = found.activation.float().cpu()
        out.J[at, self.n_ctx - length :] = J[:, len(head) :]
        H = entropy_bits(J[:, len(head) :])
        total = J.double().sum(1)
        out.bos_share[at] = (J[:, : len(head)].double().sum(1) / total).float()
        for i, bits in zip(at.tolist(), H.tolist(), strict=True):
            if not abs(float(out.activation[i])) > self.threshold:
                continue
            if length == 1:
                out.status[i] = SHORT
                continue
            out.status[i] = "undefined: no influence" if math.isnan(bits) else OK
            out.H[i] = bits
        return True


def _blank(events: Sequence[Event], n_ctx: int) -> EventScores:
    m = len(events)
    return EventScores(
        list(events),
        n_ctx,
        torch.full((m, n_ctx), torch.nan),
        torch.zeros(m, dtype=torch.int64),
        torch.full((m,), torch.nan),
        torch.full((m,), torch.nan, dtype=torch.float64),
        torch.full((m,), torch.nan),
        [OFF] * m,
    )


def _failed(status: str) -> bool:
    return status.startswith(ERROR)


_NUMBERS = ("J", "n_positions", "activation", "H", "bos_share")


def _kept(out: EventScores, batch: list[int]) -> dict[str, np.ndarray]:
    """Return what is known of some events, as arrays."""
    found = {name: getattr(out, name)[batch].numpy() for name in _NUMBERS}
    return found | {"status": np.array([out.status[i] for i in batch])}


def _restored(out: EventScores, batch: list[int], arrays: dict[str, np.ndarray] | None) -> bool:
    """Put back what `_kept` gave; return whether there was anything."""
    if arrays is None:
        return False
    for name in _NUMBERS:
        getattr(out, name)[batch] = torch.from_numpy(arrays[name])
    for i, status in zip(batch, arrays["status"].tolist(), strict=True):
        out.status[i] = status
    return True


def by_latent(scored: EventScores) -> Table:
    """Return one row per latent with an event: how many are ok, and mean and spread of H.

    ``H_pos_std`` has the divisor n - 1 and is empty for one event.
    """
    rows: dict[int, list[float]] = {}
    for event, bits, status in zip(scored.events, scored.H.tolist(), scored.status, strict=True):
        rows.setdefault(event.latent, []).extend([bits] if status == OK else [])
    columns: dict[str, list] = {
        "feature_id": sorted(rows),
        "n_events": [],
        "H_pos_mean": [],
        "H_pos_std": [],
        "H_pos_median": [],
    }
    for latent in sorted(rows):
        values = torch.tensor(rows[latent], dtype=torch.float64)
        n = len(values)
        columns["n_events"].append(n)
        columns["H_pos_mean"].append(float(values.mean()) if n else math.nan)
        columns["H_pos_std"].append(float(values.std()) if n > 1 else math.nan)
        columns["H_pos_median"].append(float(values.quantile(0.5)) if n else math.nan)
    units = {c: "bits" for c in columns if c.startswith("H_pos")}
    return Table(columns=columns, units=units | {"n_events": "events"})
