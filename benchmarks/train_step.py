"""A whole optimiser step, in tokens a second, beside the peers' own steps and the matmul's limit.

    python benchmarks/train_step.py --peer-python PYTHON [--quick] [--check] [--json]
                                    [--cases topk relu_sparse] [--only saekit sae_lens]

A step is forward, backward, clipping or projection, the optimiser and the bookkeeping of dead
latents, through each library's own entry point: saekit `Training.step`, sae-lens
`SAETrainer.step`, dictionary_learning `trainer.update`. sparsify's `Trainer` insists on a
language model, so the part of it that comes after the harvest is restated around its own coder
and optimisers, less its copies of the activations. All see the same synthetic activations: a
mean, a low rank, a sparse dictionary with heavy tails and noise, lengths near sqrt(d).

Every case is raced twice (see _side_by_side.py): with peers as they come, and with their
allocator told to keep memory ("tuned"), which needs no change of their code. saekit is in both
races, always as it comes. In the first are also the limits: the encoder's matmul alone, for one
kind of arithmetic each, in the faster of two tile sizes. `--matmul` names the kind that saekit
uses, whose limit its share is of.

Rates warm up over 1000 steps everywhere but in sparsify's schedule-free Signum, so that weights
hardly move and L0 stays where it was put.

`--quick --check`: every entry whose library is there runs, and k latents are on where k says so.

What would mislead: one column without the other, because the peers' own default is dominated by
page faults; `relu_sparse` before L0 has fallen so far (training begins at `relu_dense`, and the
peers take as long at either); sae-lens without its autocast; latents are used evenly here, as
they are not after training, which only saekit and sparsify could notice. L0 of the dense cases
is what each library's initialisation gives, and differs; `relu_half` and `jumprelu_half` hold all
at half the latents, without a target. sparsify's encoder gets no gradient from its auxiliary loss
(a defect of its fused encoder), so its step does less there.
"""

import itertools
import math
import sys
import tempfile
from pathlib import Path

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Entry, Job, Target
from safetensors.torch import load_file, save_file

STEPS = 100_000  # of the run that a step is from: rates and penalties are those of its beginning
BATCHES = 4  # of data, used in turn
MID = {"d": 576, "n": 9216, "k": 32, "batch": 4096}
WIDE = {"d": 768, "n": 24576, "k": 32, "batch": 2048}
SMALL = {"d": 128, "n": 1024, "k": 16, "batch": 512}
CASES = {
    "topk": MID | {"arch": "topk"},
    "topk_wide": WIDE | {"arch": "topk"},
    "batch_topk": MID | {"arch": "batch_topk"},
    "batch_topk_wide": WIDE | {"arch": "batch_topk"},
    "relu_dense": MID | {"arch": "relu"},
    "relu_sparse": MID | {"arch": "relu", "l0": 64},
    "relu_half": MID | {"arch": "relu", "l0": 0.5},
    "jumprelu_dense": MID | {"arch": "jumprelu"},
    "jumprelu_sparse": MID | {"arch": "jumprelu", "l0": 64},
    "jumprelu_half": MID | {"arch": "jumprelu", "l0": 0.5},
    "aux_k": MID | {"arch": "topk", "dead": 0.25},
}
DENSE = {"dictionary_learning": (1.8, 4), "sae_lens": (2.5, 5.5)}
SPARSE = {"dictionary_learning": (8, 13), "sae_lens": (12, 18)}
BY_BATCH = {"dictionary_learning": (10, 20), "sae_lens": (15, 35)}
TARGETS = {  # case: peer as it comes: (floor, goal)
    "topk": {
        "sparsify": (3, 6),
        "sparsify_adam": (3, 6),
        "dictionary_learning": (9, 18),
        "sae_lens": (12, 25),
        "sae_lens_autocast": (6, 12),
    },
    "topk_wide": {
        "sparsify": (2.7, 6.5),
        "sparsify_adam": (2.7, 6.5),
        "dictionary_learning": (9, 20),
        "sae_lens": (13, 30),
    },
    "batch_topk": BY_BATCH,
    "batch_topk_wide": BY_BATCH,
    "relu_dense": DENSE,
    "relu_sparse": SPARSE,
    "jumprelu_dense": DENSE,
    "jumprelu_sparse": SPARSE,
    "aux_k": {
        "sparsify": (1.7, 3.3),
        "sparsify_adam": (1.7, 3.3),
        "dictionary_learning": (6, 12),
        "sae_lens": (8, 16),
    },
}
BEST_TUNED = {"topk": (2, 3.8)}
SHARE = {"topk": (0.5, 0.65)}
SHARE_FLOAT32 = {"topk": (0.5, 0.76)}
MEMORY = {"topk": (2.7, 1.4)}
LIMITS = ("encoder_float32", "encoder_onednn", "encoder_bfloat16")
SPARSIFY = ("topk",)


def activations(d, n, seed=0):
    """Return [n, d] that look like a language model's: mean, low rank, sparse parts, noise."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=chance)

    mean = normal(d)
    x = (normal(n, d // 16) / 4) @ normal(d // 16, d) + 0.3 * normal(n, d)
    directions = normal(4 * d, d) / math.sqrt(d)
    on = torch.rand(n, 24, generator=chance).pow(3).mul(4 * d).long().clamp_max(4 * d - 1)
    sizes = 4 * torch.exp(0.8 * normal(n, 24))  # heavy tails
    for i in range(on.shape[1]):
        x += sizes[:, i, None] * directions[on[:, i]]
    x += mean
    return x * (math.sqrt(d) / x.norm(dim=-1).mean())


# What is timed. The first lines of a maker import; then the baseline of its memory is taken.


class Setting:
    """A case as a maker needs it, with its data."""

    def __init__(self, spec):
        self.arch, self.d, self.n, self.k = (spec[key] for key in ("arch", "d", "n", "k"))
        self.batch = spec["batch"]
        x = load_file(spec["data"])["x"].clone()
        self.x = x[: self.batch]
        self.data = itertools.cycle(x.split(self.batch))
        l0 = spec.get("l0")
        self.l0 = l0 * self.n if l0 is not None and l0 < 1 else l0
        self.n_dead = int(spec.get("dead", 0) * self.n)
        torch.manual_seed(0)
        side.mark_baseline()

    @torch.no_grad()
    def fire(self, pre, b_enc, threshold=None):
        """Move biases, and thresholds where there are, until `l0` latents a token are on.

        Each latent then is on for an equal share of the tokens.
        """
        if self.l0 is None:
            return
        found = pre(self.x[:2048])
        rank = min(max(round(len(found) * (1 - self.l0 / self.n)), 1), len(found))
        at = found.kthvalue(rank, dim=0).values
        if threshold is None:
            b_enc.sub_(at)
        else:
            threshold.copy_(at.clamp_min(threshold))
            b_enc.add_(threshold - at)

    def job(self, step, model, l0, **more):
        """Return what is timed, with the state that cannot be less: weights and two moments."""

        def facts():
            with torch.no_grad():
                state = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
                return {"l0": float(l0()), "state_bytes": state, **more}

        return Job(step, self.batch, facts)


def on_each(acts):
    return (acts != 0).sum() / len(acts)


def saekit(spec):
    from saekit.saes.base import SAEConfig
    from saekit.training.fit import Fit
    from saekit.training.trainer import Training

    s = Setting(spec)
    raw = {"name": s.arch, "d_in": s.d, "d_out": s.d, "d_sae": s.n}
    if s.arch in ("topk", "batch_topk"):
        raw["k"] = s.k if s.arch == "topk" else float(s.k)
    run = Fit(sae=SAEConfig.from_dict(raw), tokens=STEPS * s.batch, batch_tokens=s.batch)
    training = Training(run, None, "cpu")
    sae = training.sae
    s.fire(lambda x: x @ sae.W_enc + sae.b_enc, sae.b_enc.data, getattr(sae, "threshold", None))

    def step():
        if s.n_dead:
            training.silent_tokens[: s.n_dead] = run.dead_after
        x = next(s.data)
        return training.step(x, x)

    def l0():
        with torch.enable_grad():
            acts = step().acts
        return (acts.values != 0).sum() / acts.n_rows

    return s.job(step, sae, l0)


def sae_lens(spec, **settings):
    from sae_lens import saes
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    s = Setting(spec)
    name = {"topk": "TopK", "batch_topk": "BatchTopK", "relu": "Standard", "jumprelu": "JumpReLU"}
    kind = f"{name[s.arch]}TrainingSAE"
    extra = {"k": s.k} if s.arch in ("topk", "batch_topk") else {}
    sae = getattr(saes, kind)(getattr(saes, f"{kind}Config")(d_in=s.d, d_sae=s.n, **extra))
    cfg = SAETrainerConfig(
        total_training_samples=STEPS * s.batch,
        train_batch_size_samples=s.batch,
        lr_end=3e-5,
        lr_warm_up_steps=1000,
        **settings,
    )
    trainer = SAETrainer(cfg, sae, iter(()))
    threshold = sae.threshold.data if s.arch == "jumprelu" else None
    s.fire(lambda x: sae.encode_with_hidden_pre(x)[1], sae.b_enc.data, threshold)

    def step():
        if s.n_dead:
            trainer.n_forward_passes_since_fired[: s.n_dead] = cfg.dead_feature_window + 1
        trainer.maybe_reset_sparsity()
        trainer.step(next(s.data))
        trainer.n_training_steps += 1

    return s.job(step, sae, lambda: on_each(sae.encode_with_hidden_pre(s.x)[0]))


def sae_lens_autocast(spec):
    return sae_lens(spec, autocast=True)


def dictionary_learning(spec):
    from dictionary_learning.trainers import batch_top_k, jumprelu, standard, top_k

    s = Setting(spec)
    kinds = {
        "topk": top_k.TopKTrainer,
        "batch_topk": batch_top_k.BatchTopKTrainer,
        "relu": standard.StandardTrainer,
        "jumprelu": jumprelu.JumpReluTrainer,
    }
    extra = {"k": s.k} if s.arch in ("topk", "batch_topk") else {}
    trainer = kinds[s.arch](
        steps=STEPS,
        activation_dim=s.d,
        dict_size=s.n,
        layer=0,
        lm_name="none",
        device="cpu",
        **extra,
    )
    ae = trainer.ae
    trainer.update(0, s.x)  # sets the decoder's bias
    done = itertools.count(2000)  # past the start of its running threshold
    if s.arch == "relu":
        s.fire(lambda x: ae.encoder(x - ae.bias), ae.encoder.bias.data)
    if s.arch == "jumprelu":
        s.fire(lambda x: x @ ae.W_enc + ae.b_enc, ae.b_enc.data, ae.threshold.data)

    def step():
        if s.n_dead:
            trainer.num_tokens_since_fired[: s.n_dead] = trainer.dead_feature_threshold
        trainer.update(next(done), next(s.data))

    def l0():
        return on_each(ae.encode(s.x, **({"use_threshold": False} if extra else {})))

    return s.job(step, ae, l0)


def sparsify(spec, optimiser="signum"):
    from schedulefree import ScheduleFreeWrapper
    from sparsify.config import SparseCoderConfig, TrainConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    s = Setting(spec)
    torch.set_float32_matmul_precision("high")  # as its Trainer does
    cfg = SparseCoderConfig(num_latents=s.n, k=s.k)
    usual = TrainConfig(cfg, auxk_alpha=1 / 32 if s.n_dead else 0.0)
    coder = SparseCoder(s.d, cfg, dtype=torch.float32)
    coder.b_dec.data = s.x.mean(0)
    wide = (s.n / 2**14) ** 0.5
    if optimiser == "signum":
        opt = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=5e-3 / wide), momentum=0.95)
        opt.train()
    else:
        opt = torch.optim.Adam(coder.parameters(), lr=1e-3 * 2e-4 / wide)  # its warm-up's
    silent = torch.zeros(s.n, dtype=torch.long)
    fired = torch.zeros(s.n, dtype=torch.bool)

    def step():
        x = next(s.data)
        silent[: s.n_dead] = usual.dead_feature_threshold + 1
        coder.set_decoder_norm_to_unit_norm()
        dead = silent > usual.dead_feature_threshold if usual.auxk_alpha > 0 else None
        spread = (x - x.mean(0)).pow(2).sum()
        out = coder(x=x, y=x, dead_mask=dead, total_variance=spread)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # its running mean
        (out.fvu + usual.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        opt.step()
        opt.zero_grad()
        with torch.no_grad():
            silent.add_(len(x))
            silent[fired] = 0
            fired.zero_()

    return s.job(step, coder, lambda: on_each(coder.encode(s.x).top_acts))


def sparsify_adam(spec):
    return sparsify(spec, "adam")


def encoder(spec, kind):
    """Return the encoder's matmul with its bias, into memory that is reused."""
    s = Setting(spec)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    x, W = s.x.to(dtype), (torch.randn(s.n, s.d) / math.sqrt(s.d)).to(dtype)
    b, out = torch.zeros(s.n, dtype=dtype), torch.empty(s.batch, s.n, dtype=dtype)

    def tiles(rows):
        for part in x.split(rows):
            if kind == "onednn":
                torch.ops.mkldnn._linear_pointwise(part, W, b, "none", [], "")
            else:
                torch.addmm(b, part, W.t(), out=out[: len(part)])

    def seconds(rows):
        tiles(rows)
        return side._sample(Job(lambda: tiles(rows), s.batch), 2)["wall"]

    rows = min((min(512, s.batch), s.batch), key=seconds)
    return Job(lambda: tiles(rows), s.batch, lambda: {"tile_rows": rows})


MAKERS = {
    f.__name__: f
    for f in (saekit, sae_lens, sae_lens_autocast, dictionary_learning, sparsify, sparsify_adam)
} | {name: lambda spec, kind=name[8:]: encoder(spec, kind) for name in LIMITS}
PEERS = [name for name in MAKERS if name != "saekit" and name not in LIMITS]


# The comparison


def peers_of(arch):
    return [p for p in PEERS if arch in SPARSIFY or not p.startswith("sparsify")]


def entries_of(arch, tuned, options):
    """Return who races: saekit and the peers, and without tuning the limits."""
    names = ["saekit", *peers_of(arch), *([] if tuned else LIMITS)]
    return [
        Entry(name, side.python_of(name, options), tuned=tuned and name != "saekit")
        for name in names
        if side.wanted(name, options)
    ]


def targets_of(case, spec, plain, tuned, options):
    """Return what a case aims at, from both of its races."""
    label = Entry("", None)
    ours = plain.get("saekit")
    out = []
    for peer, (floor, goal) in TARGETS.get(case, {}).items():
        if side.wanted(peer, options):
            theirs = plain.get(label._replace(name=peer).label)
            out.append(side.compared(f"{case} vs {peer}", ours, theirs, floor, goal))
    if case in BEST_TUNED and tuned is not None:
        names = [Entry(p, None, tuned=True).label for p in peers_of(spec["arch"])]
        best = side.fastest(tuned, names)
        name = f"{case} vs the best peer, allocator tuned"
        out.append(side.compared(name, tuned.get("saekit"), best, *BEST_TUNED[case]))
    if case in SHARE:
        floor, goal = (SHARE if options.matmul == "bfloat16" else SHARE_FLOAT32)[case]
        limit = plain.get(f"encoder-{options.matmul}")
        name = f"{case}: share of the encoder's {options.matmul} matmul alone"
        out.append(side.compared(name, ours, limit, floor, goal))
    if case in MEMORY and side.ran(ours):
        value = ours["peak_bytes"] / ours["state_bytes"]
        name = f"{case}: peak memory over weights and Adam"
        out.append(Target(name, value, *MEMORY[case], most=True))
    return out


def data_for(d, n, folder):
    path = Path(folder) / f"{d}-{n}.safetensors"
    if not path.exists():
        save_file({"x": activations(d, n)}, path)
    return str(path)


def heading(case, spec):
    l0 = spec.get("l0")
    parts = [f"{case}: {spec['arch']} {spec['d']} x {spec['n']}, k {spec['k']}"]
    parts += [f"{spec['batch']} tokens a step"]
    parts += [] if l0 is None else [f"L0 {l0 * spec['n'] if l0 < 1 else l0:g}"]
    parts += [f"{100 * spec['dead']:.0f} % dead"] if "dead" in spec else []
    return ", ".join(parts)


def quick_floors(results, options):
    """Return what the quick form checks: all ran, and TopK keeps its k."""
    floors = []
    for case, races in results.items():
        floors += [side.all_ran(found, options) for found in races.values()]
        ours = races["plain"].get("saekit")
        if CASES[case]["arch"] == "topk" and side.ran(ours):
            k = (CASES[case] | SMALL)["k"]
            floors.append(Floor(f"{case}: L0 over k", ours["l0"] / k, least=0.9, most=1.0))
    return floors


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    parser = side.parser_of(__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--matmul",
        default="float32",
        help="the kind that saekit uses",
        choices=[name[8:] for name in LIMITS],
    )
    parser.add_argument("--no-tuned", action="store_true", help="leave the second race out")
    options = side.made_quick(parser.parse_args())
    results, targets = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases:
            spec = dict(CASES[case] | (SMALL if options.quick else {}))
            if options.quick and spec.get("l0", 0) > 1:
                spec["l0"] = 16
            spec["data"] = data_for(spec["d"], BATCHES * spec["batch"], folder)
            results[case] = races = {}
            both = not options.no_tuned and (case == "topk" or not options.quick)
            for tuned in (False, True)[: 1 + both]:
                print(f"{case}{', tuned' if tuned else ''}", file=sys.stderr, flush=True)
                entries = entries_of(spec["arch"], tuned, options)
                races["tuned" if tuned else "plain"] = side.race(entries, __file__, spec, options)
            print(f"\n### {heading(case, spec)}\n", flush=True)
            for found in races.values():
                print(side.race_table(found, "saekit") + "\n", flush=True)
            targets += targets_of(case, spec, races["plain"], races.get("tuned"), options)
    side.finish("train_step", options, {"cases": results}, targets, quick_floors(results, options))


if __name__ == "__main__":
    main()
