"""The training loop: from a run's description to a finished SAE, readable top to bottom."""

import sys
import time
from pathlib import Path
from typing import Any

from saekit.activations.harvest import Counts, Harvest
from saekit.activations.pairs import check_event
from saekit.activations.passes import pass_rows
from saekit.activations.recorded import RecordedModel
from saekit.activations.shared import Shared
from saekit.activations.shuffle import Stream
from saekit.core import machine, provenance
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import need_space, read_json, sha256_of, write_json
from saekit.core.ranks import ALONE, Mesh
from saekit.data.tokenise import TokenStream
from saekit.hub import native
from saekit.hub.card import Card
from saekit.models.base import LanguageModel
from saekit.train import checkpoint
from saekit.train.length import check_length
from saekit.train.memory import explained, plan
from saekit.train.parallel import shards
from saekit.train.parallel.beginning import agreed, as_begun
from saekit.train.parallel.mesh import open_mesh, plan_of_one
from saekit.train.parallel.streams import counts_of
from saekit.train.run import Run
from saekit.train.scaling import Scalings, fit_scaling
from saekit.train.session import Session
from saekit.train.signals import StopRequest
from saekit.train.training import Training, open_stream


def train(
    run: Run,
    model: LanguageModel,
    out: Path,
    *,
    resume: bool = False,
    shown: bool = True,
    latent_shards: int = 1,
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

    Raises:
        ConfigError: `out` is in use, or holds another run; or `run` does not fit the model.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written.
        TrainingError: the loss became NaN, infinite or a spike, and no rollback was left, or
            another process failed; checkpoints before it are kept.
    """
    mesh = open_mesh(latent_shards)
    shown = shown and mesh.every.first
    run, resume = as_begun(run, out, resume, mesh.every)
    model = model.separated() if run.separate_documents else model
    mesh.every.on_first(lambda: check(run, model, out, resume))
    planned = plan_of_one(plan(run, model), mesh, run.streams or 1)
    planned.check()
    if shown:
        sys.stderr.write(f"memory    {planned}\n")
    # A run that is resumed was begun with what its text has; where it ends early, so does the run.
    began, harvest = time.monotonic(), open_harvest(run, model, count=not resume)
    scalings = fit_scaling(harvest, run.sae, run.normalise, run.centre)
    scalings = agreed(harvest, scalings, mesh.every)
    with explained(planned):
        stream = open_stream(run, harvest, mesh, shown=shown)
        session = begin(
            run, harvest, stream, scalings, out, mesh=mesh, resume=resume, shown=shown
        )
        with session, StopRequest() as stop:
            while not session.done:
                session.step()
                session.keep(stop.asked)
    seconds = session.meter.seconds_before + time.monotonic() - began
    return end(run, harvest, session, out, seconds)


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
) -> Session:
    """Return a training under way in a folder, which gets run.json, manifest.json and log.jsonl.

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
    """
    model = harvest.model
    training = Training(run, stream, model.device, mesh)
    # Only now, when the first of the text has proved usable, is there anything to leave behind.
    if mesh.every.first:
        running = {"kind": "train", "status": "running", **_made_from(model)}
        write_json(out / "run.json", run.to_dict())
        write_json(out / "manifest.json", running)
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
        native.save(sae, card, out / "sae")
        manifest = _manifest(run, out, card, counts, seconds)
        if card.tokens < run.total_tokens:  # the text ended before what was asked
            manifest["text_ended"] = {"tokens": card.tokens, "asked": run.total_tokens}
        write_json(out / "manifest.json", manifest | {"cache": _cache_of(harvest.model)})
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
    if not isinstance(model, Shared):  # the first rows are read thrice, and pass once
        model = Shared(model, run.pair.sites)
    rows = pass_rows(model, run.n_ctx)
    return Harvest(model, stream, run.pair, run.rule, batch_rows=rows)


def check(run: Run, model: LanguageModel, out: Path, resume: bool) -> None:
    """Refuse a run that does not fit its model, its folder or the disk.

    Raises:
        ConfigError: widths, context or folder do not fit.
        FormatError: there is no run to go on with.
        ResourceError: there is no space.
    """
    _check_fit(run, model)
    _check_folder(run, model, out, resume)
    kept = 4 if run.ema is not None else 3  # weights, two moments, the mean
    weight_bytes = 4 * (run.sae.d_in + run.sae.d_out) * run.sae.d_sae
    need_space(out, weight_bytes * (1 + kept * checkpoint.KEPT))


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
            f"`n_ctx` is {run.n_ctx}; {model.name} reads {model.n_ctx_max} tokens at most."
        )
    check_event(run.pair, run.sae, n_ctx=run.n_ctx, batch_tokens=run.step_tokens)


def _check_folder(run: Run, model: LanguageModel, out: Path, resume: bool) -> None:
    if resume:
        if not (out / "run.json").exists():
            raise FormatError(f"{out} holds no run to go on with: it has no run.json.")
        if Run.from_dict(read_json(out / "run.json")) != run:
            raise ConfigError(f"{out} holds a run with other settings; resume it as it was.")
        begun_with = read_json(out / "manifest.json")["model"]
        if begun_with != model.provenance():
            raise ConfigError(
                f"The run in {out} was begun with {begun_with}; got {model.provenance()}. Resume "
                f"it with the same model, revision and dtype."
            )
        begun_from = read_json(out / "manifest.json").get("cache")
        if (begun_from or {}).get("identity") != (_cache_of(model) or {}).get("identity"):
            raise ConfigError(
                f"The run in {out} was begun from {begun_from or 'no cache'}; got "
                f"{_cache_of(model) or 'no cache'}. Resume it from the same activations."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out} is in use. Choose another folder, delete it, or go on with the run in it: "
            f"saekit train --resume {out}"
        )


def card_of(run: Run, harvest: Harvest, training: Training) -> Card:
    """Return what the SAE of a training was made from."""
    reads = {str(site) for site in run.pair.reads}
    return Card(
        model=harvest.model.provenance(),
        pair=run.pair,
        rules={k: v for k, v in harvest.rules.items() if k in reads},
        corpus=harvest.stream.provenance(),
        n_ctx=run.n_ctx,
        bos=run.bos,
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
        "status": "done",
        "model": card.model,
        "config": run.to_dict(),
        "seconds": seconds,
        "harvest": counts._asdict(),
        "corpus": card.corpus,
        "rules": {site: rule.to_dict() for site, rule in card.rules.items()},
        "weights_sha256": sha256_of(out / "sae" / "weights.safetensors"),
        "provenance": card.provenance,
    }
