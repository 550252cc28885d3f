"""The training loop: from a run's description to a finished SAE, readable top to bottom."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.harvest import Counts, Harvest
from saekit.activations.pairs import check_event
from saekit.activations.passes import pass_rows
from saekit.activations.shared import SharedPasses
from saekit.activations.shuffle import Stream
from saekit.core import machine, provenance
from saekit.core.border import bordered
from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.core.files import need_space, read_json, sha256_of, write_json
from saekit.core.lock import Claim, claimed
from saekit.core.parts import check_empty, remove
from saekit.core.processes import ALONE, Group, Mesh
from saekit.core.registry import own_parts
from saekit.data.tokenise import TokenStream
from saekit.hub import native
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, refuse_edits
from saekit.training import checkpoint, record
from saekit.training.length import check_length
from saekit.training.memory import explained, plan
from saekit.training.parallel import shards
from saekit.training.parallel.beginning import agreed, as_begun
from saekit.training.parallel.mesh import open_mesh, plan_of_one
from saekit.training.parallel.streams import counts_of
from saekit.training.record import Record
from saekit.training.run import Run
from saekit.training.scaling import Scalings, first_events, fit_scaling
from saekit.training.session import Session
from saekit.training.signals import StopRequest
from saekit.training.starting import (
    START,
    about_start,
    check_start,
    keep_start,
    kept_start,
    scaled_weights,
)
from saekit.training.trainer import Training, open_stream

RUN, LOG = "run.json", "log.jsonl"


def train(
    run: Run,
    model: LanguageModel,
    out: Path,
    *,
    resume: bool = False,
    shown: bool = True,
    latent_shards: int = 1,
    start: TrainedSAE | None = None,
) -> Path:
    """Train an SAE and return the folder it is in, ``out / "sae"``.

    `out` gets run.json, manifest.json, log.jsonl, checkpoints/ and sae/. A run that was
    killed goes on from its last checkpoint with `resume`, and on the same machine ends with
    the same weights, bit for bit, as one that was not. Within `ranks.session` every process
    calls this alike, and only the first writes; started anew by torchrun, they go on.

    Args:
        run: the description.
        model: the language model `run.model` names, loaded; or a recorded one, whose
            activations are read from its store.
        out: a folder that does not exist or is empty, or that of the run to go on with.
        resume: go on with the run in `out`.
        shown: show progress on stderr.
        latent_shards: processes over which the latents are dealt.
        start: the SAE that `run.start_from` names; of a run to go on with it lies in `out`.

    Raises:
        ConfigError: `out` is in use, or holds another run; or `run` does not fit the model.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written.
        TrainingError: the loss became NaN, infinite or a spike, and no rollback was left, or
            another process failed; checkpoints before it are kept.
    """
    refuse_edits(model)
    mesh = open_mesh(latent_shards)
    shown = shown and mesh.every.first
    with contextlib.ExitStack() as held:
        mesh.every.on_first(lambda: held.enter_context(claim(out)))
        run, resume = as_begun(run, out, resume, mesh.every)
        model = model.separated() if run.separate_documents else model
        kept = mesh.every.on_first(lambda: open_folder(run, model, out, resume, start))
        with _told(out, resume, mesh.every):
            return _train(run, model, out, mesh, resume=resume, shown=shown, kept=kept)


def _train(
    run: Run,
    model: LanguageModel,
    out: Path,
    mesh: Mesh,
    *,
    resume: bool,
    shown: bool,
    kept: Record | None,
) -> Path:
    """Train in a folder that this process has claimed and begun."""
    planned = plan_of_one(plan(run, model), mesh, run.streams or 1)
    planned.check()
    if shown:
        sys.stderr.write(f"memory    {planned}\n")
    # A run that is resumed was begun with what its text has; where it ends early, so does the run.
    began, harvest = time.monotonic(), open_harvest(run, model, count=not resume)
    scalings = fit_scaling(harvest, run.sae, run.normalise, run.centre)
    scalings = agreed(harvest, scalings, mesh.every)
    start = kept_start(run, out)
    with explained(planned):
        stream = open_stream(run, harvest, mesh, shown=shown)
        session = begin(
            run,
            harvest,
            stream,
            scalings,
            out,
            mesh=mesh,
            resume=resume,
            shown=shown,
            kept=kept,
            weights=None if start is None else scaled_weights(start.sae, run.sae, scalings),
        )
        with session, StopRequest() as stop:
            while not session.done:
                session.step()
                session.keep(stop.asked)
    seconds = session.meter.seconds_before + time.monotonic() - began
    return end(run, harvest, session, out, seconds)


def claim(out: Path) -> AbstractContextManager[Claim]:
    """Return a context in which no other process trains in a folder."""
    return claimed(out, "saekit train", f"Go on with: saekit train --resume {out}")


@contextlib.contextmanager
def _told(out: Path, resume: bool, group: Group) -> Iterator[None]:
    """A context whose failure the manifest tells; what failed before its first step is no run.

    A text that is too short, say, leaves no folder that would have to be deleted before the
    command can be given again.
    """
    try:
        yield
    except BaseException as error:
        if group.first:
            begun = resume or (out / LOG).exists() or not isinstance(error, SaekitError)
            if begun:
                record.note_end(out, error)
            else:
                for name in (RUN, record.MANIFEST, START):
                    remove(out / name)
        raise


def begin(  # noqa: PLR0913 - what a training is made from, and where it goes
    run: Run,
    harvest: Harvest,
    stream: Stream,
    scalings: Scalings,
    out: Path,
    *,
    mesh: Mesh = ALONE,
    resume: bool = False,
    at_step: int | None = None,
    shown: bool = True,
    kept: Record | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Session:
    """Return a training under way in a folder that `open_folder` has begun.

    Args:
        run: the description.
        harvest: where activations come from.
        stream: of batches of them.
        scalings: what they go through.
        out: the folder.
        mesh: the processes that train together; the first of them writes.
        resume: go on from the newest checkpoint there.
        at_step: or from that of a step.
        shown: show progress on stderr.
        kept: what `open_folder` returned; None in a process that writes nothing.
        weights: see `Training`.
    """
    model = harvest.model
    identity = None if kept is None else kept.identity
    training = Training(
        run,
        stream,
        model.device,
        mesh,
        identity=identity,
        first=lambda n: first_events(harvest, scalings, n),
        weights=weights,
    )
    return Session(
        training,
        scalings,
        autoencoder=run.pair.is_autoencoder,
        out=out,
        resume=resume,
        at_step=at_step,
        go_on=f"saekit train --resume {out}",
        start={
            "machine": machine.describe(),
            "pass_rows": harvest.batch_rows,
            "planned_bytes": plan_of_one(plan(run, model), mesh, run.streams or 1).parts,
            "processes": mesh.every.size,
            "latent_shards": mesh.latent.size,
        },
        shown=shown,
    )


def end(run: Run, harvest: Harvest, session: Session, out: Path, seconds: float) -> Path:
    """Write the finished SAE of a training and return its folder."""
    training = session.training
    sae = shards.whole(session.finish(), training.mesh)
    counts = counts_of(training.stream, harvest)
    if sae is not None:  # in the first process
        card = card_of(run, harvest, training)
        if (start := kept_start(run, out)) is not None:
            began = {"start_from": about_start(start, run)}
            card = dataclasses.replace(card, provenance=card.provenance | began)
        native.save(sae, card, out / "sae")
        manifest = _manifest(run, out, card, counts, seconds)
        if card.tokens < run.total_tokens:  # the text ended before what was asked
            manifest["text_ended"] = {"tokens": card.tokens, "asked": run.total_tokens}
        write_json(out / record.MANIFEST, manifest | {"cache": _cache_of(harvest.model)})
    return out / "sae"


def open_harvest(run: Run, model: LanguageModel, *, count: bool = True) -> Harvest:
    """Return the harvest of a run's training text.

    Args:
        run: the description.
        model: the language model, or a recorded one.
        count: refuse a text that is shorter than the run asks for.

    Raises:
        DataError: it is.
    """
    harvest = _harvest_of(run, model)
    if count:
        check_length(run, harvest)
    return harvest


def _harvest_of(run: Run, model: LanguageModel) -> Harvest:
    if isinstance(model, RecordedModel):
        raw = run.to_dict()
        asked = {k: raw[k] for k in ("model", "revision", "corpus", "n_ctx", "bos")}
        return model.harvest(run.pair, run.rule, asked)
    stream = TokenStream(
        run.corpus, "train", model.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos
    )
    if not isinstance(model, SharedPasses):  # the first rows are read thrice, and pass once
        model = SharedPasses(model, run.pair.sites)
    rows = pass_rows(model, run.n_ctx)
    return Harvest(model, stream, run.pair, run.rule, batch_rows=rows)


def open_folder(
    run: Run, model: LanguageModel, out: Path, resume: bool, start: TrainedSAE | None = None
) -> Record:
    """Write what decides the weights of a new run, or compare it with that of the run there.

    Raises: as `check` does.
    """
    if not resume:
        check_start(run, given=start is not None, mesh=ALONE)
    found = check(run, model, out, resume)
    if found is None:
        found = record.begin(out / RUN, run.to_dict(), begun_with(run, model, out))
        if start is not None:
            keep_start(start, out)
    manifest = {"kind": "train", "status": record.RUNNING, **_made_from(model)}
    write_json(out / record.MANIFEST, manifest)
    return found


def check(run: Run, model: LanguageModel, out: Path, resume: bool) -> Record | None:
    """Refuse a run that does not fit its model, its folder or the disk.

    Returns:
        what the run to go on with was begun with; None for a new one.

    Raises:
        ConfigError: widths, context or folder do not fit; or the run there was begun with
            something else, which is named.
        FormatError: there is no run to go on with.
        ResourceError: there is no space.
    """
    _check_fit(run, model)
    if not resume:
        check_empty(
            out,
            f"Choose another folder, delete it, or go on with the run in it: "
            f"saekit train --resume {out}",
        )
    kept = 4 if run.ema is not None else 3  # weights, two moments, the mean
    weight_bytes = 4 * (run.sae.d_in + run.sae.d_out) * run.sae.d_sae
    need_space(out, weight_bytes * (1 + kept * checkpoint.KEPT))
    return _compared(run, model, out) if resume else None


def begun_with(run: Run, model: LanguageModel, out: Path) -> dict[str, Any]:
    """Return what decides the weights of a run beside its settings."""
    cache, parts = _cache_of(model), own_parts(run.to_dict())
    return record.begun_with(
        model.provenance(),
        run.corpus if cache is None else None,
        out,
        cache=None if cache is None else cache["identity"],
        cache_folder=None if cache is None else cache["folder"],
        **({"parts": parts} if parts else {}),
    )


@bordered("a run")
def _compared(run: Run, model: LanguageModel, out: Path) -> Record:
    """Return the record of the run in a folder, which is this run."""
    if not (out / RUN).exists():
        raise FormatError(f"{out} holds no run to go on with: it has no {RUN}.")
    found = record.read(out / RUN)
    before = found._replace(
        settings=record.completed(found.settings, Run), begun_with=begun_with_of(found, out)
    )
    record.compare(before, Record(run.to_dict(), begun_with(run, model, out)), out)
    return found


@bordered("a run")
def begun_with_of(found: Record, out: Path) -> dict[str, Any]:
    """Return what a run was begun with; of an early version's, what its manifest says.

    Raises:
        FormatError: neither says it.
    """
    if found.version:
        return found.begun_with
    if not (out / record.MANIFEST).exists():
        raise FormatError(
            f"The run in {out} was begun by saekit 0.1.0 and killed before it noted the dtype of "
            f"its model; it has no checkpoint. Delete {out} and train anew."
        )
    raw = read_json(out / record.MANIFEST)
    cache = raw.get("cache")
    return {"model": raw["model"], "cache": None if cache is None else cache["identity"]}


def _check_fit(run: Run, model: LanguageModel) -> None:
    """Refuse a run whose SAE and model do not fit each other."""
    d_in, d_out = run.pair.widths(model)
    if (run.sae.d_in, run.sae.d_out) != (d_in, d_out):
        raise ConfigError(
            f"{run.pair.label} of {model.name} is {d_in} wide in and {d_out} out; the SAE has "
            f"d_in={run.sae.d_in}, d_out={run.sae.d_out}. Set them to the model's."
        )
    if run.n_ctx > model.n_ctx_max:
        raise ConfigError(
            f"`n_ctx` is {run.n_ctx}; {model.name} reads {model.n_ctx_max} tokens at most. "
            f"Lower `n_ctx`."
        )
    if run.start_from is not None and run.pair.shares:
        raise ConfigError(
            f"Training begins from an SAE of raw activations; those of {run.pair.label} are scaled "
            f"by site. Train for one site, or anew."
        )
    check_event(run.pair, run.sae, n_ctx=run.n_ctx, batch_tokens=run.step_tokens)


def card_of(run: Run, harvest: Harvest, training: Training) -> Card:
    """Return what the SAE of a training was made from."""
    sites = {str(site) for site in run.pair.sites}
    return Card(
        model=harvest.model.provenance(),
        pair=run.pair,
        rules={k: v for k, v in harvest.rules.items() if k in sites},
        corpus=harvest.stream.provenance(),
        n_ctx=run.n_ctx,
        bos=run.bos and harvest.model.tokenizer.bos_id is not None,
        tokens=training.stream.served_tokens,
        run=run.to_dict(),
        provenance=provenance.collect(run.seed),
        scalings={str(site): both for site, both in harvest.scalings.items()},
    )


def _made_from(model: LanguageModel) -> dict[str, Any]:
    made_from = {"model": model.provenance(), "provenance": provenance.collect()}
    return made_from | {"cache": _cache_of(model)}


def _cache_of(model: LanguageModel) -> dict[str, Any] | None:
    if not isinstance(model, RecordedModel):
        return None
    return {"folder": str(model.store.folder.absolute()), "identity": model.store.identity}


def _manifest(run: Run, out: Path, card: Card, counts: Counts, seconds: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "status": record.DONE,
        "model": card.model,
        "config": run.to_dict(),
        "seconds": seconds,
        "harvest": counts._asdict(),
        "corpus": card.corpus,
        "rules": {site: rule.to_dict() for site, rule in card.rules.items()},
        "weights_sha256": sha256_of(out / "sae" / "weights.safetensors"),
        "provenance": card.provenance,
    }
