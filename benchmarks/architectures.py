"""Every architecture on one stream: variance unexplained against latents per token.

    python benchmarks/architectures.py [--quick] [--check] [--json] [--only NAME,NAME]
                                       [--figure FILE] [--with FILE]

Harvests the middle layer of the embedded model once, trains each architecture on the same
batches at several settings of its sparsity and otherwise with its defaults, and measures
each with `saekit eval`'s core evaluation on validation text. Prints a Markdown table;
`--figure` draws it (needs matplotlib). `--quick` trains a few steps of each, to see that all
still work.

`--check`: FVU is at most 0.40 and 0.7 of the cross-entropy is recovered at every setting (the worst
of the table in docs is 0.348 and 0.81). `--quick --check`: FVU is at most 0.98, so the SAE predicts
more than the mean does, and some latents are on.
"""

import sys
import time
from pathlib import Path

import _command
from _command import Floor

from saekit.activations.pairs import Pair
from saekit.activations.shuffle import Resident
from saekit.data.open import open_corpus
from saekit.evals.core import Core
from saekit.evals.evaluate import evaluate
from saekit.hub.trained import TrainedSAE
from saekit.models.hf import load
from saekit.saes.base import SAEConfig
from saekit.training.loop import card_of, open_harvest
from saekit.training.run import Run
from saekit.training.scaling import measure_scaling
from saekit.training.trainer import Training

MODEL, LAYER = "smollm2-135m", 15
KS = [{"k": k} for k in (16, 32, 64)]
SETTINGS: dict[str, list[dict]] = {
    "topk": KS,
    "batch_topk": KS,
    "abs_topk": KS,
    "multi_topk": KS,
    "matryoshka": KS,
    "matching_pursuit": KS,
    "jumprelu": [{"target_l0": k} for k in (16, 32, 64)],
    "relu": [{"l1_coefficient": c} for c in (1.0, 2.0, 3.5)],
    "p_anneal": [{"l1_coefficient": c} for c in (0.7, 1.2, 2.5)],
    "gated": [{"l1_coefficient": c} for c in (2.5, 4.0, 7.0)],
    "standardised": [{"inner": {"name": "topk", "k": k}} for k in (16, 32, 64)],
    "temporal": KS,
    "crosscoder": KS,
}
WINDOWED, STACKED = {"temporal"}, {"crosscoder"}
NOTES = {"skip": "a skip connection lets an autoencoder copy its input; it is for transcoders"}


def sae_config(name, settings, d_in, d_sae):
    sizes = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae}
    raw = {"name": name} | sizes | settings
    if "inner" in raw:
        raw["inner"] = raw["inner"] | sizes
    return SAEConfig.from_dict(raw)


def trained(run, harvest, stream):
    """Train on a stream from its beginning, as `saekit train` does."""
    scale = measure_scaling(harvest, run.sae, run.normalise, run.centre).x
    stream = stream.again(batch_tokens=run.step_tokens, seed=run.seed)
    training = Training(run, stream, harvest.model.device)
    while stream.served_tokens < run.total_tokens:
        x = scale.apply(stream.batch()[0])
        training.step(x, x)
    training.finish()
    training.sae.rescale(scale, scale)
    return TrainedSAE(training.sae, card_of(run, harvest, training))


def pair_of(name):
    if name in WINDOWED:
        return Pair(read=(f"L{LAYER}.resid_post",), window=16)
    if name in STACKED:
        return Pair(read=tuple(f"L{layer}.resid_post" for layer in (LAYER - 1, LAYER, LAYER + 1)))
    return Pair(read=(f"L{LAYER}.resid_post",))


def measure(lm, corpus, names, args):
    """Train and evaluate architectures that read alike; return one record a setting."""
    pair = pair_of(names[0])
    d_in, _ = pair.widths(lm)
    harvest = stream = None
    rows = []
    for name in names:
        for settings in SETTINGS[name][:1] if args.quick else SETTINGS[name]:
            extra = {"n_sites": len(pair.read)} if name in STACKED else {}
            run = Run(
                model=MODEL,
                pair=pair,
                corpus=corpus,
                tokens=args.tokens,
                epochs=args.epochs,
                sae=sae_config(name, settings | extra, d_in, args.d_sae),
                buffer_tokens=max(args.tokens, 2048),
            )
            if stream is None:
                harvest = open_harvest(run, lm)
                stream = Resident(
                    harvest,
                    tokens=run.tokens,
                    epochs=run.epochs,
                    batch_tokens=run.step_tokens,
                    seed=run.seed,
                )
            began = time.perf_counter()
            loaded = trained(run, harvest, stream)
            seconds = time.perf_counter() - began
            core = Core(n_tokens=args.eval_tokens, ce_tokens=args.ce_tokens)
            scores = evaluate(loaded, lm, core, split="validation", shown=False).scores
            rows.append(
                {
                    "name": name,
                    "settings": settings,
                    "seconds": seconds,
                    **{k: [s.value, s.low, s.high] for k, s in scores.items()},
                }
            )
            print(
                name,
                settings,
                f"FVU {scores['fvu'].value:.4f} L0 {scores['l0'].value:.1f} {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return rows


def table(rows):
    """Return the figures as Markdown, best first within a band of latents per token."""
    lines = ["| architecture | setting | L0 | FVU [95 %] | CE recovered | dead % |"]
    lines.append("|---|---|---|---|---|---|")
    for r in sorted(rows, key=lambda r: (list(SETTINGS).index(r["name"]), r["l0"][0])):
        fvu, ce = r["fvu"], r["ce_recovered_mean"][0]
        setting = ", ".join(f"{k}={v}" for k, v in r["settings"].items() if k != "inner")
        setting = setting or f"k={r['settings']['inner']['k']}"
        lines.append(
            f"| {r['name']} | {setting} | {r['l0'][0]:.1f} | {fvu[0]:.4f}{ends(*fvu[1:])} | "
            f"{'' if ce is None else f'{ce:.4f}'} | {100 * r['dead'][0]:.1f} |"
        )
    return "\n".join(lines)


def ends(low, high):
    """Return an interval in brackets; nothing where too few documents were read for one."""
    return "" if low is None else f" [{low:.4f}, {high:.4f}]"


def floors_of(rows, quick):
    """Return what each setting must reach."""
    floors = []
    for r in rows:
        name = f"{r['name']} {r['settings']}"
        floors.append(Floor(f"{name}: FVU", r["fvu"][0], most=0.98 if quick else 0.40))
        if quick:
            floors.append(Floor(f"{name}: L0", r["l0"][0], least=0.5))
        else:
            recovered = r["ce_recovered_mean"][0]
            floors.append(Floor(f"{name}: CE recovered", recovered, least=0.7))
    return floors


def draw(rows, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "saekit"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.2))
    markers = "osD^v<>ph*XP8"
    for i, name in enumerate(n for n in SETTINGS if any(r["name"] == n for r in rows)):
        points = sorted(
            (r["l0"][0], *(r["fvu"][0] if end is None else end for end in r["fvu"]))
            for r in rows
            if r["name"] == name
        )
        l0, fvu, low, high = zip(*points, strict=True)
        bars = [
            [f - a for f, a in zip(fvu, low, strict=True)],
            [b - f for f, b in zip(fvu, high, strict=True)],
        ]
        axes.errorbar(
            l0,
            fvu,
            bars,
            label=name,
            marker=markers[i],
            ms=5,
            lw=1.2,
            capsize=2,
            color=plt.get_cmap("tab20")(i),
        )
    axes.set(xscale="log", xlabel="latents per token (L0)", ylabel="variance unexplained (FVU)")
    axes.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = _command.parser_of(__doc__, "a few steps of each, at one setting")
    parser.add_argument("--only", default="")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--eval-tokens", type=int, default=2**15)
    parser.add_argument("--ce-tokens", type=int, default=2**12)
    parser.add_argument("--figure", type=Path)
    parser.add_argument(
        "--with",
        dest="others",
        type=Path,
        nargs="*",
        default=[],
        help="files of what --json printed; other architectures are shown too",
    )
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.d_sae, args.eval_tokens, args.ce_tokens = 10_000, 512, 2048, 512
    names = [n for n in args.only.split(",") if n] or list(SETTINGS)
    rows = []
    lm = load(MODEL)
    corpus = open_corpus("packaged")
    for group in (set(SETTINGS) - WINDOWED - STACKED, WINDOWED, STACKED):
        wanted = [n for n in SETTINGS if n in group and n in names]
        if wanted:
            rows += measure(lm, corpus, wanted, args)
    for path in args.others:
        known = {row["name"] for row in rows}
        rows += [r for r in _command.last_record(path)["rows"] if r["name"] not in known]
    print(table(rows))
    if args.figure:
        draw(rows, args.figure)
    return _command.finish("architectures", args, {"rows": rows}, floors_of(rows, args.quick))


if __name__ == "__main__":
    sys.exit(main())
