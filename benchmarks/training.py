"""What each setting of training is worth: one architecture, one setting changed at a time.

    python benchmarks/training.py [--quick] [--check] [--json] [--arch NAME] [--seeds 0 1]
    python benchmarks/training.py --widths 1024 4096 16384 65536 131072

Harvests the middle layer of the embedded model once, trains the architecture with saekit's
defaults and with each change of `VARIANTS`, and measures each with the core evaluation on
validation text. Prints a Markdown table. `--widths` trains the defaults at several widths instead,
and with half and twice the rate up to 16,384 latents. `--quick` trains a few steps, to see that all
work.

`--check`: no change has an FVU more than 2 % below that of the defaults. `--quick --check`: every
change trains to an FVU of at most 1.2; a step that diverges has far more.
"""

import statistics
import sys
import time

import _command
from _command import Floor
from architectures import MODEL, pair_of, sae_config, trained

from saekit.activations.shuffle import Resident
from saekit.data.open import open_corpus
from saekit.evals.core import Core
from saekit.evals.evaluate import evaluate
from saekit.models.hf import load
from saekit.training.loop import open_harvest
from saekit.training.run import Run

VARIANTS: dict[str, dict] = {
    "defaults": {},
    "lr x 0.5": {"lr_times": 0.5},
    "lr x 2": {"lr_times": 2.0},
    "batches of 1,024": {"batch_tokens": 1024},
    "batches of 2,048": {"batch_tokens": 2048},
    "cosine": {"schedule": "cosine"},
    "linear over the whole run": {"decay": 1.0},
    "constant": {"schedule": "constant"},
    "constant, ema 0.99": {"schedule": "constant", "ema": 0.99},
    "ema 0.99": {"ema": 0.99},
    "adamw, decay 0.01": {"optimiser": {"kind": "adamw", "weight_decay": 0.01}},
    "muon": {"optimiser": {"kind": "muon"}},
    "muon, lr x 2": {"optimiser": {"kind": "muon"}, "lr_times": 2.0},
    "signum, beta1 0, lr x 0.5": {"optimiser": {"kind": "signum", "beta1": 0.0}, "lr_times": 0.5},
    "signum, beta1 0": {"optimiser": {"kind": "signum", "beta1": 0.0}},
    "schedule_free": {"optimiser": {"kind": "schedule_free"}, "schedule": "constant"},
    "schedule_free, lr x 2": {
        "optimiser": {"kind": "schedule_free"},
        "schedule": "constant",
        "lr_times": 2.0,
    },
    "no clipping": {"clip_norm": None},
    "resampling": {"resample": {"every_tokens": 0.25}},  # a share of all
    "centre: geometric median": {"centre": "geometric_median"},
    "normalise: whiten": {"normalise": "whiten"},
    "normalise: none, centre: none": {"normalise": "none", "centre": "none"},
    "k annealed from 3 k over 0.3": {"sae": {"start_k": 96, "anneal": 0.3}},
    "free decoder": {"sae": {"decoder": "free"}},
    "no auxiliary loss": {"sae": {"aux_coefficient": 0.0}},
    "auxiliary loss x 8": {"sae": {"aux_coefficient": 0.25}},
}


def run_of(corpus, pair, args, seed, changes):
    changes = dict(changes)
    sae = {"k": 32} | changes.pop("sae", {})
    width = changes.pop("d_sae", args.d_sae)
    times = changes.pop("lr_times", 1.0)
    if "resample" in changes:
        share = changes["resample"]["every_tokens"]
        changes["resample"] = {"every_tokens": int(share * args.tokens)}
    raw = Run(
        model=MODEL,
        pair=pair,
        corpus=corpus,
        tokens=args.tokens,
        seed=seed,
        sae=sae_config(args.arch, sae, 576, width),
        buffer_tokens=max(args.tokens, 4096),
    ).to_dict()
    run = Run.from_dict(raw | changes)
    return Run.from_dict(run.to_dict() | {"lr": run.peak_lr * times})


def widths(wanted):
    """Return the defaults at several widths, and other rates beside them while they are cheap."""
    found = {}
    for width in wanted:
        found[f"{width:,} latents"] = {"d_sae": width}
        for times in (0.5, 2.0) if width <= 2**14 else ():
            found[f"{width:,} latents, lr x {times}"] = {"d_sae": width, "lr_times": times}
    return found


def main():
    parser = _command.parser_of(__doc__, "a few steps of each change, one seed")
    parser.add_argument("--arch", default="batch_topk")
    parser.add_argument("--only", nargs="*", default=None, help="names of variants")
    parser.add_argument("--widths", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--eval-tokens", type=int, default=2**14)
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.d_sae, args.eval_tokens, args.seeds = 10_000, 512, 2048, [0]
    lm, corpus, pair = load(MODEL), open_corpus("packaged"), pair_of(args.arch)
    harvest, stream, rows = None, None, []
    for name, changes in (widths(args.widths) or VARIANTS).items():
        if args.only and name not in args.only:
            continue
        found = []
        for seed in args.seeds:
            run = run_of(corpus, pair, args, seed, changes)
            harvest = harvest or open_harvest(run, lm)
            stream = stream or Resident(
                harvest, tokens=run.tokens, epochs=1, batch_tokens=run.step_tokens, seed=seed
            )
            began = time.perf_counter()
            loaded = trained(run, harvest, stream)
            seconds = time.perf_counter() - began
            core = Core(n_tokens=args.eval_tokens, ce_tokens=0)
            scores = evaluate(loaded, lm, core, split="validation", shown=False).scores
            found.append(
                {
                    "seed": seed,
                    "lr": run.lr,
                    "seconds": seconds,
                    **{k: scores[k].value for k in ("fvu", "l0", "dead")},
                }
            )
        rows.append({"name": name, "runs": found})
        print(line(rows[-1], rows[0]), file=sys.stderr, flush=True)
    print("| change | FVU | against the defaults | L0 | dead % | train s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(line(row, rows[0]))
    return _command.finish("training", args, {"rows": rows}, floors_of(rows, args.quick))


def floors_of(rows, quick):
    """Return what each change must reach."""
    means = {row["name"]: statistics.mean(r["fvu"] for r in row["runs"]) for row in rows}
    if quick:
        return [Floor(f"{name}: FVU", fvu, most=1.2) for name, fvu in means.items()]
    first = next(iter(means.values()))
    others = list(means.items())[1:]
    return [Floor(f"{name}: FVU over the defaults'", v / first, least=0.98) for name, v in others]


def line(row, first):
    def mean(key, of=row):
        return statistics.mean(r[key] for r in of["runs"])

    pairs = zip(row["runs"], first["runs"], strict=True)
    gaps = [100 * (a["fvu"] / b["fvu"] - 1) for a, b in pairs]
    return (
        f"| {row['name']} | {mean('fvu'):.4f} | {statistics.mean(gaps):+.1f} % "
        f"[{min(gaps):+.1f}, {max(gaps):+.1f}] | {mean('l0'):.1f} | {100 * mean('dead'):.1f} | "
        f"{mean('seconds'):.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
