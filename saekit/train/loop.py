"""The training loop: from a run's description to a finished SAE, readable top to bottom."""

import sys
import time
from pathlib import Path
from typing import Any

from saekit.activations.harvest import Counts, Harvest
from saekit.activations.pairs import check_event
from saekit.core import machine, provenance
from saekit.core.errors import ConfigError, FormatError, Interrupted
from saekit.core.files import need_space, read_json, sha256_of, write_json
from saekit.core.progress import Progress
from saekit.data.tokenise import TokenStream
from saekit.hub import native
from saekit.hub.card import Card
from saekit.models.base import LanguageModel
from saekit.train import checkpoint
from saekit.train.log import Log, NoLog
from saekit.train.memory import explained, plan
from saekit.train.meter import Meter
from saekit.train.parallel import shards
from saekit.train.parallel.beginning import agreed, as_begun
from saekit.train.parallel.mesh import open_mesh, plan_of_one
from saekit.train.parallel.streams import counts_of
from saekit.train.run import Run
from saekit.train.scaling import fit_scaling
from saekit.train.signals import StopRequest
from saekit.train.training import Training, open_stream

HARVEST_ROWS = 16  # rows of a forward pass


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
        model: the language model `run.model` names, loaded.
        out: a folder that does not exist or is empty, or that of the run to go on with.
        resume: go on with the run in `out`.
        shown: show progress on stderr.
        latent_shards: processes over which the latents are dealt.

    Raises:
        ConfigError: `out` is in use, or holds another run; or `run` does not fit the model.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written.
        TrainingError: the loss became NaN or infinite, or another process failed; checkpoints
            before it are kept.
    """
    began = time.monotonic()
    mesh = open_mesh(latent_shards)
    shown, first = shown and mesh.every.first, mesh.every.first
    run, resume = as_begun(run, out, resume, mesh.every)
    mesh.every.on_first(lambda: _check(run, model, out, resume))
    planned = plan_of_one(plan(run, model), mesh, run.streams or 1)
    planned.check()
    if shown:
        sys.stderr.write(f"memory    {planned}\n")
    harvest = open_harvest(run, model)
    scalings = fit_scaling(harvest, run.sae, run.normalise, run.centre)
    scale_x, scale_y, baseline = agreed(harvest, scalings, mesh.every)
    with explained(planned):
        stream = open_stream(run, harvest, mesh, shown=shown)
        training = Training(run, stream, model.device, mesh)
    last_step = training.restore(out / "checkpoints") if resume else 0
    # Only now, when the first of the text has proved usable, is there anything to leave behind.
    if first:
        write_json(out / "run.json", run.to_dict())
        write_json(
            out / "manifest.json", {"kind": "train", "status": "running", **_made_from(model)}
        )
    log = (Log if first else NoLog)(out / "log.jsonl", last_step if resume else None)
    served = training.stream.served_tokens
    log.write("start", step=last_step, tokens=served, machine=machine.describe(),
              planned_bytes=planned.parts, processes=mesh.every.size,
              latent_shards=mesh.latent.size)  # fmt: skip
    progress = Progress("train", run.total_tokens, shown=shown)
    progress.start_at(training.stream.served_tokens)
    next_save = training.stream.served_tokens + run.checkpoint_every
    meter = Meter(log.last_seconds, baseline)
    try:
        with StopRequest() as stop, explained(planned):
            while training.stream.served_tokens < run.total_tokens:
                x, y = training.stream.batch()
                x = scale_x.apply(x)
                y = x if run.pair.is_autoencoder else scale_y.apply(y)
                loss = training.step(x, y)
                meter.add(loss, y)
                done = training.index == run.total_steps
                if training.index % run.log_steps == 0 or done:
                    record = meter.record(training)
                    log.write("step", **record)
                    progress.note = f"FVU {record['fvu']:.3f}  L0 {record['l0']:.1f}"
                progress.add(loss.acts.n_rows * mesh.data.size)
                due = training.stream.served_tokens >= next_save
                asked = mesh.every.any(stop.asked is not None)
                if (due or asked) and not done:
                    training.save(out / "checkpoints")
                    next_save += run.checkpoint_every
                if asked and not done:
                    why = stop.asked or "A signal to another process"
                    raise Interrupted(
                        f"{why} after {training.stream.served_tokens:,} of "
                        f"{run.total_tokens:,} tokens; a checkpoint was written. Go on with: "
                        f"saekit train --resume {out}"
                    )
    finally:
        progress.close()
        log.close()
    training.finish()
    training.sae.rescale(scale_x, scale_y)
    counts = counts_of(training.stream, harvest)
    if (sae := shards.whole(training.sae, mesh)) is not None:
        card = card_of(run, harvest, training)
        native.save(sae, card, out / "sae")
        seconds = meter.seconds_before + time.monotonic() - began
        write_json(out / "manifest.json", _manifest(run, out, card, counts, seconds))
    return out / "sae"


def open_harvest(run: Run, model: LanguageModel) -> Harvest:
    """Return the harvest of a run's training text."""
    stream = TokenStream(
        run.corpus, "train", model.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos
    )
    return Harvest(model, stream, run.pair, run.rule, batch_rows=HARVEST_ROWS)


def _check(run: Run, model: LanguageModel, out: Path, resume: bool) -> None:
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
    return {"model": model.provenance(), "provenance": provenance.collect()}


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
