"""A run over events: H_pos at several window lengths, as a folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from saekit.core import provenance
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import digest, write_json, write_text
from saekit.data import table_files
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, Tokenizer
from saekit.models.sites import Site
from saekit.studies.locality.events import event_files
from saekit.studies.locality.events.base import Event
from saekit.studies.locality.events.event_entropy import EventEntropy, EventScores, by_latent
from saekit.studies.locality.runs.journal import Journal
from saekit.studies.locality.runs.run_folder import DEFAULTS, RunOptions
from saekit.studies.locality.runs.subjects import forgotten

MANIFEST = "manifest.json"
TEXT_AROUND = 40  # tokens of a text line


@dataclass(frozen=True, kw_only=True)
class AboutEvents:
    """What is known of the events of a run, its SAE and its latents; it changes no number.

    Args:
        source: JSON-ready: where the events are from.
        descriptions: what latents are said to be.
        tiers: of latents, where a file of features has them.
        sae_id: what the SAE is called, as 12-gemmascope-res-16k.
    """

    source: Mapping[str, Any]
    descriptions: Mapping[int, str] = field(default_factory=dict)
    tiers: Mapping[int, str] = field(default_factory=dict)
    sae_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class EventRun(Config):
    """Windows of several lengths over the same events.

    Args:
        n_ctx: lengths of the windows, tokens, distinct.
        threshold: least activation in the window, act units.
        batch_tokens: tokens of a pass.
        legacy_encode: encode as the published code does, which differs for some SAEs.

    Raises:
        ConfigError: no length, one twice, or a number is out of range.
    """

    name: ClassVar[str] = "event_run"
    n_ctx: tuple[int, ...] = setting((16, 32, 64, 96, 128), least=2, unit="tokens")
    threshold: float = setting(0.0, least=0)
    batch_tokens: int = setting(2048, least=1)
    legacy_encode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.n_ctx or len(set(self.n_ctx)) != len(self.n_ctx):
            raise ConfigError(
                f"`n_ctx` needs one length or more, each once; got {list(self.n_ctx)}."
            )

    def _one(self, n_ctx: int) -> EventEntropy:
        return EventEntropy(n_ctx=n_ctx, threshold=self.threshold, batch_tokens=self.batch_tokens)

    def settings(
        self, loaded: TrainedSAE, lm: LanguageModel, site: Site, events: Sequence[Event]
    ) -> dict[str, Any]:
        """Return what decides the numbers of a run."""
        weights = loaded.sae.state_dict()
        return {
            "run": self.to_dict(),
            "model": lm.provenance(),
            "site": str(site),
            "bos": loaded.card.bos_id(lm.tokenizer) is not None,
            "sae": loaded.sae.cfg.to_dict(),
            "weights": digest(part for k in sorted(weights) for part in (k, _bytes(weights[k]))),
            "events": digest(str(tuple(e)) for e in events),
        }

    def write(
        self,
        loaded: TrainedSAE,
        lm: LanguageModel,
        events: Sequence[Event],
        out: Path,
        about: AboutEvents,
        options: RunOptions = DEFAULTS,
    ) -> dict[str, Any]:
        """Score the events at every length and write the folder; return counts.

        Files: ``manifest.json`` (last), ``top_contexts_layer<L>.json`` and ``.txt``, and for
        each length ``ctx<N>.csv``, ``influences_ctx<N>.npz``, ``per_feature_ctx<N>.csv``.

        Args:
            loaded: the SAE and its card.
            lm: the model, in float32.
            events: with as much text as the longest window.
            out: folder to make, or to go on with.
            about: where the events are from, and what is known of SAE and latents.
            options: how to go about it.

        Returns:
            ``events``, ``latents``, ``ok`` by length, ``failed`` in all, ``seconds``.

        Raises:
            DataError: there are no events.
            ConfigError: windows are longer than the model reads, or the folder is in use or
                holds a run with other settings.
        """
        if not events:
            raise DataError("There are no events: the latents are on nowhere in this text.")
        began = time.monotonic()
        card = loaded.card
        site = card.site
        bos = card.bos_id(lm.tokenizer)
        forgets = forgotten(loaded) if self.legacy_encode else ()
        journal = Journal(out, self.settings(loaded, lm, site, events), resume=options.resume)
        write_contexts(out, site, events, lm.tokenizer)
        ok: dict[str, int] = {}
        failures: list[str] = []
        for n_ctx in sorted(self.n_ctx, reverse=True):  # what does not fit fails first
            scored = self._one(n_ctx).score(
                lm,
                loaded.sae,
                site,
                events,
                bos_id=bos,
                memory_bytes=options.memory_bytes,
                forgets=forgets,
                journal=journal,
                shown=options.shown,
            )
            _write(out, scored, lm.tokenizer, about, options.tables)
            ok[str(n_ctx)] = int(scored.ok.sum())
            failures += [f"N={n_ctx}: {message}" for message in scored.failures]
        seconds = time.monotonic() - began
        latents = sorted({e.latent for e in events})
        counts = {
            "events": len(events),
            "latents": len(latents),
            "ok": dict(reversed(ok.items())),
            "failed": len(failures),
            "seconds": seconds,
        }
        write_json(
            out / MANIFEST,
            {
                "experiment": "cherry_picked_feature_entropy",
                "timestamp": datetime.now(UTC).strftime("%Y%m%d_%H%M%S"),
                "preset": card.model.get("name"),
                "layer": site.layer,
                "site": str(site),
                "sae_id": about.sae_id,
                "ctx_len": max(self.n_ctx),
                "ctx_lens_swept": sorted(self.n_ctx),
                "top_k": max(e.rank for e in events) + 1,
                "bos": bos is not None,
                "source": dict(about.source),
                "run": self.to_dict(),
                **counts,
                "failures": failures[:20],
                "features": [
                    {
                        "feature_id": a,
                        "tier": about.tiers.get(a, event_files.NO_TIER),
                        "description": about.descriptions.get(a, ""),
                    }
                    for a in latents
                ],
                "model": lm.provenance(),
                "provenance": provenance.collect(),
            },
        )
        return counts


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _write(
    out: Path, scored: EventScores, tokenizer: Tokenizer, about: AboutEvents, tables: str
) -> None:
    event_files.write(
        out, scored, lambda i: tokenizer.pieces([i])[0], about.descriptions, tables, about.tiers
    )
    table_files.write(by_latent(scored), out / f"per_feature_ctx{scored.n_ctx}", tables)


def contexts_path(out: Path, layer: int | None) -> Path:
    """Return the file of the events' texts."""
    return out / f"top_contexts_layer{'embed' if layer is None else layer}.json"


def write_contexts(out: Path, site: Site, events: Sequence[Event], tokenizer: Tokenizer) -> None:
    """Write the text of every event up to its peak, for programs and for reading."""
    found: dict[str, dict[str, Any]] = {}
    lines = []
    for event in events:
        one = found.setdefault(str(event.latent), {"max_activation": event.value, "examples": []})
        pieces = tokenizer.pieces(list(event.ids))
        one["examples"].append(
            {
                "activation": event.value,
                "token_idx": event.peak,
                "tokens": pieces,
                "ids": list(event.ids),
                "activating_token": pieces[-1],
                "doc": event.doc,
                "window_start_token": event.place - event.peak,
            }
        )
        text = "".join(pieces[-TEXT_AROUND:-1]).replace("\n", " ")
        lines.append(f"{event.latent}\t{event.rank}\t{event.value:.4g}\t{text}[[{pieces[-1]}]]")
    path = contexts_path(out, site.layer)
    write_json(path, found)
    write_text(path.with_suffix(".txt"), "\n".join(lines) + "\n")
