"""The training loop: from a run's description to a finished SAE, readable top to bottom."""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.activations.harvest import CALIBRATION_ROWS, Counts, Harvest
from saekit.activations.shuffle import Resident, Rolling, Shuffle
from saekit.core import provenance
from saekit.core.errors import ConfigError, FormatError, Interrupted, TrainingError
from saekit.core.files import need_space, read_json, sha256_of, write_json
from saekit.core.progress import Progress
from saekit.core.seeds import generator
from saekit.data.tokenise import TokenStream
from saekit.hub import native
from saekit.hub.card import Card
from saekit.models.base import LanguageModel
from saekit.saes.base import SAE, Loss, Scaling, Step
from saekit.train import checkpoint
from saekit.train.log import Log
from saekit.train.run import Run
from saekit.train.signals import StopRequest

HARVEST_ROWS = 16  # rows of a forward pass


def train(
    run: Run, model: LanguageModel, out: Path, *, resume: bool = False, shown: bool = True
) -> Path:
    """Train an SAE and return the folder it is in, ``out / "sae"``.

    `out` gets run.json, manifest.json, log.jsonl, checkpoints/ and sae/. A run that was
    killed goes on from its last checkpoint with `resume`, and on the same machine ends with
    the same weights, bit for bit, as one that was not.

    Args:
        run: the description.
        model: the language model `run.model` names, loaded.
        out: a folder that does not exist or is empty, or that of the run to go on with.
        resume: go on with the run in `out`.
        shown: show progress on stderr.

    Raises:
        ConfigError: `out` is in use, or holds another run; or `run` does not fit the model.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written.
        TrainingError: the loss became NaN or infinite; checkpoints before it are kept.
    """
    began = time.monotonic()
    _check(run, model, out, resume)
    harvest = open_harvest(run, model)
    scale_x, scale_y = measure_scaling(harvest) if run.normalise else _no_scaling(run)
    training = Training(run, harvest, shown=shown)
    last_step = training.restore(out / "checkpoints") if resume else 0
    # Only now, when the first of the text has proved usable, is there anything to leave behind.
    write_json(out / "run.json", run.to_dict())
    write_json(out / "manifest.json", {"kind": "train", "status": "running", **_made_from(model)})
    log = Log(out / "log.jsonl", keep_to_step=last_step if resume else None)
    log.write("start", step=last_step, tokens=training.stream.served_tokens)
    progress = Progress("train", run.total_tokens, shown=shown)
    progress.start_at(training.stream.served_tokens)
    next_save = training.stream.served_tokens + run.checkpoint_every
    meter = Meter(log.last_seconds)
    try:
        with StopRequest() as stop:
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
                progress.add(len(x))
                due = training.stream.served_tokens >= next_save
                if (due or stop.asked) and not done:
                    training.save(out / "checkpoints")
                    next_save += run.checkpoint_every
                if stop.asked and not done:
                    raise Interrupted(
                        f"{stop.asked} after {training.stream.served_tokens:,} of "
                        f"{run.total_tokens:,} tokens; a checkpoint was written. Go on with: "
                        f"saekit train --resume {out}"
                    )
    finally:
        progress.close()
        log.close()
    training.sae.rescale(scale_x, scale_y)
    card = _card(run, harvest, training)
    native.save(training.sae, card, out / "sae")
    seconds = meter.seconds_before + time.monotonic() - began
    write_json(out / "manifest.json", _manifest(run, out, card, harvest.counts, seconds))
    return out / "sae"


def open_harvest(run: Run, model: LanguageModel) -> Harvest:
    """Return the harvest of a run's training text."""
    stream = TokenStream(
        run.corpus, "train", model.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos
    )
    return Harvest(model, stream, run.pair, run.rule, batch_rows=HARVEST_ROWS)


def measure_scaling(harvest: Harvest) -> tuple[Scaling, Scaling]:
    """Return the scalings of input and output, from the first rows; they are not counted."""
    sums: list[list[Tensor]] = [[], []]
    squares, n = [0.0, 0.0], 0
    for acts in harvest.batches(0, CALIBRATION_ROWS):
        n += len(acts.x)
        for i, side in enumerate((acts.x, acts.y)):
            wide = side.double()
            sums[i].append(wide.sum(0))
            squares[i] += float(wide.square().sum())
    harvest.counts = Counts()
    found = []
    for side, square in zip(sums, squares, strict=True):
        mean = torch.stack(side).sum(0) / n
        variance = square / n - float(mean.square().sum())
        if not variance > 0:
            raise TrainingError("The activations of the first rows do not vary; try another site.")
        found.append(Scaling(mean.float(), (mean.numel() / variance) ** 0.5))
    return found[0], found[1]


class Training:
    """The moving parts of a run: SAE, optimiser, stream, and how long each latent was silent."""

    def __init__(self, run: Run, harvest: Harvest, *, shown: bool = True):
        self.run = run
        self.sae: SAE = run.sae.build(generator(run.seed, "init")).to(harvest.model.device)
        scales = self.sae.rate_scales()
        groups = [
            {"params": [p], "scale": scales.get(name, 1.0)}
            for name, p in self.sae.named_parameters()
        ]
        self.optimiser = torch.optim.Adam(groups, lr=run.peak_lr, fused=True)
        self.stream = open_shuffle(run, harvest, shown=shown)
        self.silent_tokens = torch.zeros(  # [d_sae]
            run.sae.d_sae, dtype=torch.int64, device=harvest.model.device
        )
        self.index = 0  # optimiser steps done

    @property
    def dead(self) -> Bool[Tensor, "d_sae"]:
        """Latents silent for `run.dead_after` training tokens."""
        return self.silent_tokens >= self.run.dead_after

    def step(self, x: Tensor, y: Tensor) -> Loss:
        """Do one optimiser step on scaled activations and return its loss.

        Raises:
            TrainingError: the loss is not finite; the weights are those before the step.
        """
        progress = self.index / self.run.total_steps
        loss = self.sae.loss(x, y, Step(self.index, progress, self.dead))
        if not loss.total.isfinite():
            terms = {k: float(v.detach()) for k, v in loss.terms.items()}
            raise TrainingError(
                f"The loss is {float(loss.total.detach())} at step {self.index} ({terms}). The "
                f"last checkpoint is kept; lower `lr` (now {self.run.lr_at(self.index):.3g}) or "
                f"set `clip_norm`."
            )
        self.optimiser.zero_grad()
        loss.total.backward()
        self.sae.before_step()
        if self.run.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.run.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.run.lr_at(self.index) * group["scale"]
        self.optimiser.step()
        self.sae.after_step(loss)
        self.silent_tokens += len(x)
        self.silent_tokens[loss.acts.latents[loss.acts.values != 0]] = 0
        self.index += 1
        return loss

    def save(self, folder: Path) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: a weight is not finite; no checkpoint was written.
        """
        weights = dict(self.sae.state_dict())
        if not all(w.isfinite().all() for w in weights.values()):
            raise TrainingError(f"A weight is not finite at step {self.index}; lower `lr`.")
        moments = {}
        for name, parameter in self.sae.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                moments[f"{name}.{key}"] = value
        tensors, values = self.stream.state()
        counters = {"silent_tokens": self.silent_tokens}
        groups = {"weights": weights, "optimiser": moments, "counters": counters}
        groups |= {"stream": tensors} if tensors else {}
        state = checkpoint.State(self.index, groups, {"stream": values})
        checkpoint.write(folder, state, checkpoint.run_digest(self.run.to_dict()))

    def restore(self, folder: Path) -> int:
        """Take up the newest whole checkpoint and return its step; 0 where there is none."""
        run = checkpoint.run_digest(self.run.to_dict())
        state, _ = checkpoint.newest(folder, run)
        if state is None:
            return 0
        self.sae.load_state_dict(state.tensors["weights"])
        for name, parameter in self.sae.named_parameters():
            moments = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                saved = state.tensors["optimiser"][f"{name}.{key}"]
                moments[key] = saved.clone()
                if key != "step":  # the layout of the parameter, for the same bits again
                    moments[key] = torch.empty_like(parameter).copy_(saved)
            self.optimiser.state[parameter] = moments
        self.silent_tokens.copy_(state.tensors["counters"]["silent_tokens"])
        self.stream.load(state.tensors.get("stream", {}), state.values["stream"])
        self.index = state.step
        return state.step


def open_shuffle(run: Run, harvest: Harvest, *, shown: bool) -> Shuffle:
    """Return the stream of training batches: in memory where an epoch fits, else rolling."""
    common: dict[str, Any] = {
        "tokens": run.tokens,
        "epochs": run.epochs,
        "batch_tokens": run.batch_tokens,
        "seed": run.seed,
    }
    if run.tokens <= run.buffer_tokens:
        return Resident(harvest, shown=shown, **common)
    return Rolling(harvest, buffer_tokens=run.buffer_tokens, **common)


class Meter:
    """Averages between two records of the log."""

    def __init__(self, seconds_before: float):
        self.seconds_before = seconds_before
        self._began = self._last = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self.n = self.fired = 0
        self.err = self.square = 0.0
        self.terms: dict[str, float] = {}

    def add(self, loss: Loss, y: Float[Tensor, "n *event d_out"]) -> None:
        """Count one step; `y` is scaled, so that its mean over the text is near 0."""
        n = len(y)
        self.n += n
        self.err += float((loss.y_hat.detach() - y).square().sum())
        self.square += float(y.square().sum())
        self.fired += int((loss.acts.values != 0).sum())
        for key, value in loss.terms.items():
            self.terms[key] = self.terms.get(key, 0.0) + n * float(value.detach())

    def record(self, training: Training) -> dict[str, Any]:
        """Return what is logged, and begin anew."""
        now = time.monotonic()
        terms = {k: v / self.n for k, v in self.terms.items()}
        out = {
            "step": training.index,
            "tokens": training.stream.served_tokens,
            "seconds": self.seconds_before + now - self._began,
            "loss": sum(terms.values()),
            "terms": terms,
            "fvu": self.err / self.square,
            "l0": self.fired / self.n,
            "dead": int(training.dead.sum()),
            "lr": training.run.lr_at(training.index - 1),
            "tokens_per_second": self.n / max(now - self._last, 1e-9),
        }
        self._last = now
        self._clear()
        return out


def _check(run: Run, model: LanguageModel, out: Path, resume: bool) -> None:
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
    if resume:
        if not (out / "run.json").exists():
            raise FormatError(f"{out} holds no run to go on with: it has no run.json.")
        if read_json(out / "run.json") != run.to_dict():
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
    n_weights = 2 * (d_in + d_out) * run.sae.d_sae
    need_space(out, 4 * n_weights * (1 + 3 * checkpoint.KEPT) // 2)


def _no_scaling(run: Run) -> tuple[Scaling, Scaling]:
    sae = run.sae
    return Scaling(torch.zeros(sae.d_in), 1.0), Scaling(torch.zeros(sae.d_out), 1.0)


def _card(run: Run, harvest: Harvest, training: Training) -> Card:
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
