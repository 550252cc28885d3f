"""Every architecture on a truth it should find: 256 orthogonal features, 8 on at a time.

    python benchmarks/recovery.py [--quick] [--check] [--json] [--only NAME,NAME] [--threads N]

Trains each architecture on the same samples at the latents per token that features are on, and
prints how many of the features its decoder holds (MCC), whether latents fire with them (F1),
and how long training took. `--quick` gives `topk` and `batch_topk` a tenth of the samples.

`--check`: every architecture has an MCC of 0.95 or more, as many latents a token as features to
within a fifth, and trains in a minute. `--quick --check`: MCC is 0.5 or more; random directions
have 0.2, and an SAE that does not train stays there.
"""

import json
import sys
import time

import _command
import torch
from _command import Floor

from saekit.core.seeds import generator
from saekit.saes.base import SAEConfig, Scaling
from saekit.studies.truth.evals.ground_truth import GroundTruth
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.training import Layout, fit_truth
from saekit.training.fit import Fit
from saekit.training.trainer import Training

D, ON = 256, 8
LEAST_MCC, L0_WITHIN, MOST_SECONDS = 0.95, 0.2, 60.0
QUICK, LEAST_MCC_QUICK = ["topk", "batch_topk"], 0.5
TRUTH = {
    "n_features": D,
    "d_model": D,
    "dictionary": {"name": "orthogonal"},
    "firing": {"name": "constant", "rate": ON / D},
    "magnitudes": {"name": "folded_normal", "mean": 1.0, "std": 0.25},
}
FIT = {"tokens": 1_000_000, "batch_tokens": 1024}
# Settings of the architecture, and of training where they differ from FIT.
SETTINGS: dict[str, tuple[dict, dict]] = {
    "topk": ({"k": ON}, {}),
    "batch_topk": ({"k": ON}, {}),
    "abs_topk": ({"k": ON}, {}),
    "multi_topk": ({"k": ON}, {}),
    "matryoshka": ({"k": ON}, {}),
    "matching_pursuit": ({"k": ON}, {}),
    "jumprelu": ({"target_l0": ON}, {"tokens": 2_000_000}),
    "relu": ({"l1_coefficient": 2.0}, {}),
    "p_anneal": ({"l1_coefficient": 2.0}, {}),
    "gated": ({"l1_coefficient": 2.0}, {}),
    "standardised": ({"inner": {"name": "topk", "k": ON}}, {}),
    "skip": ({"inner": {"name": "batch_topk", "k": ON}, "d_sae": 2 * D}, {}),
    "temporal": ({"k": ON, "d_sae": 2 * D}, {"tokens": 500_000}),
    "crosscoder": ({"k": ON, "n_sites": 2}, {"tokens": 500_000}),
}
NOTES = {
    "temporal": "windows of 8 unrelated samples; L0, F1 and dead are of its novel latents, of "
    "which it keeps k, not of the predicted ones, which are dense",
    "crosscoder": "two sites, the second turned; directions are those of the first",
    "skip": "a transcoder: it predicts sizes of features whose signs are random, in turned "
    "directions, two latents a feature, each of which sees half of its tokens (recall 0.5); an "
    "autoencoder would copy its input by the map, as anything linear",
}


def sae_config(name, settings):
    sizes = {"d_in": D, "d_out": D, "d_sae": settings.get("d_sae", D)}
    raw = {"name": name} | settings | sizes
    if "inner" in raw:
        raw["inner"] = raw["inner"] | sizes
    return SAEConfig.from_dict(raw)


def measure(truth, name, settings, fit):
    """Train one architecture and return its record."""
    run = Fit.from_dict(FIT | fit | {"sae": sae_config(name, settings).to_dict()})
    began = time.perf_counter()
    sae = Transcoder(run, truth) if name == "skip" else fit_truth(run, truth, shown=False)
    seconds = time.perf_counter() - began
    layout = Layout.of(run.sae, truth)
    arrange = layout.arrange if run.sae.event else None
    result = GroundTruth(n_tokens=2**15).run(sae, truth, arrange=arrange, name=name)
    scores = {k: [s.value, s.low, s.high] for k, s in result.scores.items()}
    if name == "skip":
        scores["r2"] = [sae.r2(truth), None, None]
    if name == "temporal":  # its predicted latents are dense by design
        density, f1 = (result.details["by_latent"][k][:D] for k in ("density", "f1"))
        known = [v for v, d in zip(f1, density, strict=True) if d > 0]
        scores["l0"] = [sum(density), None, None]
        scores["f1"] = [sum(known) / len(known), None, None]
        scores["dead"] = [1 - len(known) / len(f1), None, None]
    return {"name": name, "settings": settings, "fit": FIT | fit, "seconds": seconds, **scores}


class Transcoder:
    """A trained map from features with random signs to their sizes, in other directions.

    x = sum s_i a_i f_i and y = sum a_i g_i with s_i = 1 or -1 at equal odds: nothing of y is
    linear in x, so the map of a skip connection has nothing to take, and what latents find are
    features, one latent a sign. Seen from outside, directions are turned back, so that they
    compare with the truth's.
    """

    def __init__(self, run, truth):
        drawn = torch.randn(D, D, generator=generator(0, "turn"), dtype=torch.float64)
        self.turn, self.features = torch.linalg.qr(drawn).Q.float(), truth.features
        self.chance = generator(run.seed, "signs")
        stream = truth.stream(tokens=run.tokens, batch_tokens=run.step_tokens, seed=run.seed)
        x, y = self.pair(truth.sample(2**14, generator(0, "target")).x)
        x_scale, y_scale = (Scaling(v.mean(0), float(1 / v.var(0).mean().sqrt())) for v in (x, y))
        training = Training(run, stream)
        while stream.served_tokens < run.total_tokens:
            x, y = self.pair(stream.batch()[0])
            training.step(x_scale.apply(x), y_scale.apply(y))
        training.finish()
        training.sae.rescale(x_scale, y_scale)
        self.sae, self.cfg = training.sae, training.sae.cfg

    def pair(self, x):
        sizes = x @ self.features.t()  # features are orthogonal
        signs = torch.randint(0, 2, sizes.shape, generator=self.chance) * 2 - 1
        return (signs * sizes) @ self.features, sizes @ self.features @ self.turn

    def encode(self, x):
        return self.sae.encode(self.pair(x)[0])

    def decode(self, acts):
        return self.sae.decode(acts) @ self.turn.t()

    def directions(self):
        return self.sae.directions() @ self.turn.t()

    @torch.no_grad()
    def r2(self, truth):
        x, y = self.pair(truth.sample(2**13, generator(1, "target")).x)
        return 1 - float((self.sae(x) - y).square().sum() / (y - y.mean(0)).square().sum())


def floors_of(row, quick):
    """Return what is asked of an architecture."""
    if quick:
        return [Floor(f"{row['name']}: MCC", row["mcc"][0], least=LEAST_MCC_QUICK)]
    on = row["l0"][0] / row["l0_true"][0]
    return [
        Floor(f"{row['name']}: MCC", row["mcc"][0], least=LEAST_MCC),
        Floor(f"{row['name']}: L0 over features on", on, least=1 - L0_WITHIN, most=1 + L0_WITHIN),
        Floor(f"{row['name']}: seconds", row["seconds"], most=MOST_SECONDS),
    ]


def table(rows):
    lines = ["| architecture | setting | training | L0 | MCC | F1 | R2 | dead | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        fit = {k: v for k, v in r["fit"].items() if FIT.get(k) != v}
        words = [", ".join(f"{k}={v}" for k, v in _flat(d).items()) for d in (r["settings"], fit)]
        lines.append(
            f"| {r['name']} | {words[0]} | {words[1] or 'as all'} | {r['l0'][0]:.1f} | "
            f"{r['mcc'][0]:.3f} | {r['f1'][0]:.3f} | {r['r2'][0]:.3f} | {r['dead'][0]:.3f} | "
            f"{r['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _flat(raw):
    return {
        k: v
        for key, value in raw.items()
        for k, v in (value.items() if isinstance(value, dict) else [(key, value)])
        if k != "name"
    }


def main():
    parser = _command.parser_of(__doc__, "two architectures, a tenth of the samples")
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--set", dest="sae", type=json.loads, default={}, help="settings to use in place, as JSON"
    )
    parser.add_argument("--fit", type=json.loads, default={}, help="of training, as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    truth = TruthConfig.from_dict(TRUTH).build()
    rows, floors = [], []
    names = [n for n in args.only.split(",") if n] or (QUICK if args.quick else list(SETTINGS))
    for name in names:
        settings, fit = SETTINGS[name]
        if args.quick:
            fit = fit | {"tokens": (FIT | fit)["tokens"] // 10}
        rows.append(measure(truth, name, settings | args.sae, fit | args.fit))
        floors += floors_of(rows[-1], args.quick)
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"Features on per sample: {rows[0]['l0_true'][0]:.2f}\n\n{table(rows)}")
    for name in (r["name"] for r in rows if r["name"] in NOTES):
        print(f"\n{name}: {NOTES[name]}")
    return _command.finish("recovery", args, {"truth": TRUTH, "rows": rows}, floors)


if __name__ == "__main__":
    sys.exit(main())
