"""The trainers that benchmarks/quality.py compares, each behind one function; a process of its own.

    python benchmarks/quality_trainers.py FOLDER

FOLDER holds acts.safetensors: `train` [T, d], `order.SEED` [T] for every seed, `check` [n, d].
Requests come as lines of JSON on stdin (trainer, arch, seed, and settings), answers go as lines
of JSON to stdout. Every trainer sees the same batches in the same order, `train[order]` in
float32, cut every `batch` tokens, and writes `out`: W_enc, b_enc, W_dec, b_dec in the form

    pre = x @ W_enc + b_enc;  acts = the k largest positive, or pre where pre > threshold
    y_hat = acts @ W_dec + b_dec

of raw activations, with `y_hat`: what the trainer's own model makes of `check`.

Whose loop it is: sae-lens' own `SAETrainer.fit`, dictionary_learning's own `trainSAE`, saekit's
own `train`. sparsify's `Trainer` insists on a language model, so its loop is restated here around
its own coder, loss, optimiser and constraints.

A setting that a peer counts in steps keeps the share it has of the run that the peer's own
documentation shows (`share`), because runs here are shorter than some of those numbers.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CHECKED = 512  # tokens on which a model's own forward pass is kept


class Data:
    """Activations of one seed: iterating gives its batches from the first, as often as asked."""

    def __init__(self, folder, seed, batch):
        with safe_open(Path(folder) / "acts.safetensors", "pt") as file:
            self.train = file.get_tensor("train")
            self.order = file.get_tensor(f"order.{seed}")
            self.check = file.get_tensor("check")[:CHECKED].float()
        self.batch = batch
        self.steps = len(self.order) // batch
        self.d = self.train.shape[1]

    def __iter__(self):
        for part in self.order[: self.steps * self.batch].split(self.batch):
            yield self.train[part].float()


def share(steps, of_theirs, theirs):
    """Return as large a share of `steps` as `of_theirs` is of `theirs`."""
    return max(1, round(steps * of_theirs / theirs))


def found(W_enc, b_enc, W_dec, b_dec, y_hat, *, threshold=None, centred=False):
    """Return weights in the common form."""
    if centred:
        b_enc = b_enc - b_dec @ W_enc
    out = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "y_hat": y_hat}
    if threshold is not None:
        out["threshold"] = torch.as_tensor(threshold, dtype=torch.float32).expand(len(b_enc))
    return {k: v.detach().float().clone().contiguous() for k, v in out.items()}


def gated_as_jump(W_enc, gate, r_mag, b_mag, b_dec, *, centred):
    """Return W_enc, b_enc and threshold of the JumpReLU that a gated encoder is."""
    lin = b_dec @ W_enc if centred else 0.0
    steep = r_mag.exp()
    threshold = (b_mag - steep * gate).clamp_min(0)  # open gate and positive magnitude
    return W_enc * steep, b_mag - steep * lin, threshold


# saekit


@functools.cache
def language_model(name, dtype):
    """Return the model, which `train` asks for widths and its identity."""
    from saekit.models.hf import load

    return load(name, dtype=dtype, check=False)


def saekit(spec, data, folder):
    """saekit's `train` at the defaults of `Run`, on a harvest that reads the file."""
    from saekit.activations.batch import ActBatch
    from saekit.activations.harvest import Harvest
    from saekit.activations.rules import FittedRule
    from saekit.activations.shuffle import Resident
    from saekit.hub import native
    from saekit.training import loop
    from saekit.training.run import Run

    made = json.loads((Path(folder) / "made.json").read_text())
    with safe_open(Path(folder) / "acts.safetensors", "pt") as file:
        row, pos = file.get_tensor("row"), file.get_tensor("pos")

    class Stored(Harvest):
        def batches(self, first_row=0, n_rows=None):
            last = math.inf if n_rows is None else first_row + n_rows
            here = ((row >= first_row) & (row < last)).nonzero()[:, 0]
            for part in here.split(2**14):
                acts = data.train[part]
                yield ActBatch(acts, acts, row[part], pos[part])

    sizes = {"d_in": data.d, "d_out": data.d, "d_sae": spec["d_sae"]}
    settings = {"name": spec["arch"], **sizes, **spec.get("sae", {})}
    if spec["arch"] in ("topk", "batch_topk", "matryoshka"):
        settings["k"] = spec["k"] if spec["arch"] == "topk" else float(spec["k"])
    if spec["arch"] == "jumprelu":
        settings["target_l0"] = float(spec["coefficient"] or spec["k"])
    elif spec.get("coefficient"):
        settings["l1_coefficient"] = spec["coefficient"]
    raw = {"name": "run", "model": made["model"], "pair": made["pair"], "corpus": made["corpus"]}
    raw |= {"sae": settings, "tokens": data.steps * data.batch, "batch_tokens": data.batch}
    raw |= {"seed": spec["seed"]} | ({"lr": spec["lr"]} if spec.get("lr") else {})
    run = Run.from_dict(raw)
    rules = {site: FittedRule.from_dict(rule) for site, rule in made["rules"].items()}
    model = language_model(run.model, made["dtype"])
    whole = loop.open_harvest

    def stored(run, model):
        stream = made_stream(run, model)
        return Stored(model, stream, run.pair, run.rule, fitted=rules)

    def made_stream(run, model):
        from saekit.data.tokenise import TokenStream

        return TokenStream(
            run.corpus, "train", model.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos
        )

    ours = Resident(
        stored(run, model),
        tokens=run.tokens,
        epochs=1,
        batch_tokens=run.step_tokens,
        seed=run.seed,
        shown=False,
    )
    assert torch.equal(ours.batch()[0], next(iter(data))), "saekit would see other batches"
    del ours
    try:
        loop.open_harvest = stored
        with tempfile.TemporaryDirectory() as out:
            began = time.monotonic()
            sae = native.load(loop.train(run, model, Path(out) / "run", shown=False)).sae
            seconds = time.monotonic() - began
    finally:
        loop.open_harvest = whole
    with torch.no_grad():
        y_hat = sae(data.check)
    W = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    record = {"lr": run.peak_lr, "sae": sae.cfg.to_dict(), "inputs": "mean 0, mean square 1"}
    if spec["arch"] == "gated":
        W_enc, b_enc, least = gated_as_jump(
            sae.W_enc, sae.b_enc, sae.r_mag, sae.b_mag, sae.b_dec, centred=False
        )
        return found(W_enc, b_enc, *W[2:], y_hat, threshold=least), record, seconds
    thresholds = {"relu": 0.0, "p_anneal": 0.0}
    own = getattr(sae, "threshold", None)
    least = thresholds.get(spec["arch"], own)
    return found(*W, y_hat, threshold=least), record, seconds


# sae-lens: docs/training_saes.md trains 30,000 steps, decays over the last fifth, warms a
# coefficient up over a twentieth; input scaled to a mean norm of sqrt(d).

LENS = {
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "matryoshka": "MatryoshkaBatchTopK",
    "jumprelu": "JumpReLU",
    "relu": "Standard",
    "gated": "Gated",
}


def sae_lens(spec, data, _folder):
    """sae-lens' `SAETrainer.fit` at the defaults of its configurations."""
    from sae_lens import saes
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(spec["seed"])
    arch, steps = spec["arch"], data.steps
    settings = {"normalize_activations": "expected_average_only_in"}
    if arch in ("topk", "batch_topk", "matryoshka"):
        settings["k"] = spec["k"]
    if arch == "matryoshka":
        settings["matryoshka_widths"] = [spec["d_sae"] // p for p in (16, 8, 4, 2, 1)]
    if arch == "jumprelu":
        settings |= {"l0_coefficient": spec["coefficient"] or 1.0}
        settings |= {"l0_warm_up_steps": share(steps, 1, 20)}
    if arch in ("relu", "gated"):
        settings |= {"l1_coefficient": spec["coefficient"] or 5.0}
        settings |= {"l1_warm_up_steps": share(steps, 1, 20)}
    cfg = getattr(saes, f"{LENS[arch]}TrainingSAEConfig")(
        d_in=data.d, d_sae=spec["d_sae"], **settings
    )
    sae = getattr(saes, f"{LENS[arch]}TrainingSAE")(cfg)
    training = SAETrainerConfig(
        total_training_samples=steps * data.batch,
        train_batch_size_samples=data.batch,
        lr_decay_steps=share(steps, 1, 5),
        lr_end=0.0,
        n_batches_for_norm_estimate=min(20, steps),
        dead_feature_window=share(steps, 1000, 30_000),
        **({"lr": spec["lr"]} if spec.get("lr") else {}),
    )
    first = itertools.islice(data, training.n_batches_for_norm_estimate)
    trainer = SAETrainer(training, sae, itertools.chain(first, iter(data)))
    began = time.monotonic()
    sae = trainer.fit()
    seconds = time.monotonic() - began
    with tempfile.TemporaryDirectory() as out, torch.no_grad():
        sae.save_inference_model(out)
        y_hat = saes.SAE.load_from_disk(out)(data.check)
    record = {"lr": training.lr, "sae": _plain(settings), "inputs": "mean norm sqrt(d)"}
    record |= {"warm_up": 0, "decay": "last fifth", "dead_window": training.dead_feature_window}
    with torch.no_grad():
        W_enc, W_dec, b_dec = sae.W_enc.data, sae.W_dec.data, sae.b_dec.data
        if arch == "gated":
            W_enc, b_enc, least = gated_as_jump(
                W_enc, sae.b_gate, sae.r_mag, sae.b_mag, b_dec, centred=True
            )
            return found(W_enc, b_enc, W_dec, b_dec, y_hat, threshold=least), record, seconds
        b_enc = sae.b_enc - b_dec @ W_enc
        if arch in ("topk", "batch_topk", "matryoshka"):
            norm = W_dec.norm(dim=-1)
            W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
        least = {"topk": None, "relu": 0.0}.get(arch, getattr(sae, "threshold", None))
        least = sae.topk_threshold.float() if arch in ("batch_topk", "matryoshka") else least
    return found(W_enc, b_enc, W_dec, b_dec, y_hat, threshold=least), record, seconds


# dictionary_learning: its demo trains 50 M tokens in steps of 2048 (24,414 steps) with 1000 steps
# of warm-up, 5000 of the penalty's, decay over the last fifth, input scaled to mean norm^2 of 1.

DL_STEPS = 24_414
DL = {
    "topk": ("top_k", "TopKTrainer"),
    "batch_topk": ("batch_top_k", "BatchTopKTrainer"),
    "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "jumprelu": ("jumprelu", "JumpReluTrainer"),
    "relu": ("standard", "StandardTrainer"),
    "gated": ("gdm", "GatedSAETrainer"),
    "p_anneal": ("p_anneal", "PAnnealTrainer"),
}


def dictionary_learning(spec, data, _folder):
    """dictionary_learning's `trainSAE` at the defaults of its trainers and its demo."""
    import importlib

    from dictionary_learning.training import trainSAE

    arch, steps = spec["arch"], data.steps
    module = importlib.import_module(f"dictionary_learning.trainers.{DL[arch][0]}")
    warm = share(steps, 1000, DL_STEPS)
    config = {
        "trainer": getattr(module, DL[arch][1]),
        "steps": steps,
        "activation_dim": data.d,
        "dict_size": spec["d_sae"],
        "layer": 0,
        "lm_name": "file",
        "device": "cpu",
        "seed": spec["seed"],
        "warmup_steps": warm,
        "decay_start": round(0.8 * steps),
    }
    if arch in ("topk", "batch_topk", "matryoshka"):
        config |= {"k": spec["k"], "threshold_start_step": warm}
        config["threshold_beta"] = 1 - 1 / share(steps, 1000, DL_STEPS)
        if arch == "matryoshka":
            config["group_fractions"] = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32]
    else:
        config["sparsity_warmup_steps"] = share(steps, 5000, DL_STEPS)
    if arch == "jumprelu":
        config["target_l0"] = float(spec["coefficient"] or spec["k"])
        torch.manual_seed(spec["seed"])  # this trainer does not use its seed
    if arch in ("relu", "gated"):
        config["l1_penalty"] = spec["coefficient"] or 0.03
    if arch == "p_anneal":
        config |= {"initial_sparsity_penalty": spec["coefficient"] or 0.01, "p_end": 0.2}
        config |= {"sparsity_function": "Lp^p", "anneal_start": share(steps, 10_000, DL_STEPS)}
    if spec.get("lr"):
        config["lr"] = spec["lr"]
    record = {"sae": _plain(config), "inputs": "mean square norm 1", "decay": "last fifth"}
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        trainSAE(data, [config], steps, save_dir=out, normalize_activations=True, device="cpu")
        seconds = time.monotonic() - began
        with (Path(out) / "trainer_0" / "config.json").open() as file:
            trained = json.load(file)["trainer"]
        ae = _dl_model(module, trained["dict_class"], Path(out) / "trainer_0" / "ae.pt")
    record["lr"] = trained["lr"]
    with torch.no_grad():
        y_hat = ae(data.check)
        linear = hasattr(ae, "encoder")
        W_enc, W_dec = (
            (ae.encoder.weight.t(), ae.decoder.weight.t()) if linear else (ae.W_enc, ae.W_dec)
        )
        names = dict(ae.named_parameters())
        b_dec = next(names[n] for n in ("b_dec", "bias", "decoder_bias") if n in names)
        if arch == "gated":
            W_enc, b_enc, least = gated_as_jump(
                W_enc, ae.gate_bias, ae.r_mag, ae.mag_bias, b_dec, centred=True
            )
            return found(W_enc, b_enc, W_dec, b_dec, y_hat, threshold=least), record, seconds
        b_enc = names.get("b_enc", names.get("encoder.bias"))
        least = {"topk": None, "relu": 0.0, "p_anneal": 0.0}.get(
            arch, getattr(ae, "threshold", None)
        )
        if arch in ("batch_topk", "matryoshka"):
            least = least.clamp_min(0)
        centred = arch != "jumprelu"
    W = (W_enc, b_enc, W_dec, b_dec)
    return found(*W, y_hat, threshold=least, centred=centred), record, seconds


def _dl_model(module, name, path):
    """Return a saved dictionary; its weights are as trained, not renormalised."""
    import dictionary_learning.dictionary as plain

    kind = getattr(module, name, None) or getattr(plain, name)
    state = torch.load(path)
    key = "encoder.weight" if "encoder.weight" in state else "W_enc"
    wide, d = state[key].shape if key == "encoder.weight" else state[key].shape[::-1]
    extra = {"k": int(state["k"])} if "k" in state else {}
    if "group_sizes" in state:
        extra["group_sizes"] = state["group_sizes"].tolist()
    ae = kind(d, wide, **extra)
    ae.load_state_dict(state)
    return ae


# sparsify


def sparsify(spec, data, _folder):
    """sparsify's coder, loss and Signum (or Adam), in a loop around stored activations."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify.config import SparseCoderConfig, TrainConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    torch.manual_seed(spec["seed"])
    cfg = SparseCoderConfig(
        num_latents=spec["d_sae"], k=spec["k"], multi_topk=spec["arch"] == "multi_topk"
    )
    usual = TrainConfig(cfg)
    coder = SparseCoder(data.d, cfg, dtype=torch.float32)
    wide = (coder.num_latents / 2**14) ** 0.5
    kind = spec.get("optimiser") or usual.optimizer
    schedule = None
    if kind == "signum":
        lr = spec.get("lr") or 5e-3 / wide
        optimiser = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=lr), momentum=0.95)
        optimiser.train()
    else:
        lr = spec.get("lr") or 2e-4 / wide
        optimiser = torch.optim.Adam(coder.parameters(), lr=lr)
        warm = max(1, data.steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda i: min(i / warm, (data.steps - i) / (data.steps - warm))
        )
    began = time.monotonic()
    for i, x in enumerate(data):
        if i == 0:
            coder.b_dec.data = x.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x)
        (out.fvu + usual.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        if schedule is not None:
            schedule.step()
    if kind == "signum":
        optimiser.eval()
    seconds = time.monotonic() - began
    with torch.no_grad():
        x = data.check
        acts, latents, _ = coder.encode(x)
        y_hat = coder.decode(acts, latents)
    record = {"lr": lr, "optimiser": kind, "auxk_alpha": usual.auxk_alpha, "inputs": "raw"}
    W = (coder.encoder.weight.t(), coder.encoder.bias, coder.W_dec, coder.b_dec)
    return found(*W, y_hat, centred=True), record, seconds


def _plain(settings):
    """Return settings as JSON takes them."""
    plain = str | int | float | list | None
    return {
        k: v if isinstance(v, plain) else getattr(v, "__name__", str(v))
        for k, v in settings.items()
    }


def hide_a_broken_torchvision():
    """Make an unusable torchvision look absent: nnsight asks for it and nothing here uses it."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for part in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[part]
        sys.modules["torchvision"] = None
    except ImportError:
        pass


TRAINERS = {f.__name__: f for f in (saekit, sae_lens, dictionary_learning, sparsify)}


def main():
    folder = Path(sys.argv[1])
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a trainer prints is not an answer
    hide_a_broken_torchvision()
    for line in sys.stdin:
        spec = json.loads(line)
        try:
            torch.set_num_threads(spec["threads"])
            data = Data(folder, spec["seed"], spec["batch"])
            with contextlib.redirect_stdout(sys.stderr):
                began = time.process_time()
                weights, record, seconds = TRAINERS[spec["trainer"]](spec, data, folder)
            save_file(weights, spec["out"])
            answer = {"settings": record, "seconds": seconds, "steps": data.steps}
            answer["cpu_seconds"] = time.process_time() - began  # with loading and checking
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
