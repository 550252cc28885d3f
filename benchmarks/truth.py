"""Samples a second of synthetic truths, ours against sae-lens' generator in the same run.

    python benchmarks/truth.py [--quick] [--check] [--json] [--peer-python PATH]

Four configurations of 16,384 features in 768 dimensions: independent, with a low-rank copula,
with a hierarchy, and with both (SynthSAEBench-16k); directions are random in all, for they cost
nothing when sampling. Both sides make batches of 1,024 tokens on one thread, by turns, so that
another load on the machine meets both. A row has the best of the turns of each side and their
ratio. `--quick` takes short turns.

`--check`: every ratio is 2 or more. `--quick --check`: saekit makes 200 samples a second or more,
with 25 to 45 features on (34.5 were measured), and half as many samples as sae-lens where that is
installed.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

import _command
from _command import Floor

BATCH = 1024
LEAST_RATIO, LEAST_RATIO_QUICK, LEAST_RATE_QUICK = 2.0, 0.5, 200.0
KINDS = {
    "independent": (False, False),
    "low-rank copula": (True, False),
    "hierarchy": (False, True),
    "synth_sae_bench_16k": (True, True),
}


def ours(correlated, tree):
    """Return a function that makes a batch."""
    from saekit.core.seeds import generator
    from saekit.studies.truth.model.dictionaries import Random
    from saekit.studies.truth.model.presets import preset

    cfg = replace(preset("synth_sae_bench_16k"), dictionary=Random())
    cfg = replace(
        cfg,
        correlation=cfg.correlation if correlated else None,
        hierarchy=cfg.hierarchy if tree else None,
    )
    truth, chance = cfg.build(), generator(0)

    def sample():
        acts = truth.sample(BATCH, chance).acts
        return len(acts.values)

    return sample


def theirs(correlated, tree):
    """Return a function that makes a batch with sae-lens."""
    sys.modules["torchvision"] = None  # may be unusable, and nothing here uses it
    import sae_lens.synthetic as peer

    cfg = peer.SyntheticModelConfig(
        num_features=16_384,
        hidden_dim=768,
        bias=0.5,
        seed=42,
        firing_probability=peer.ZipfianFiringProbabilityConfig(
            exponent=0.5, max_prob=0.4, min_prob=5e-4
        ),
        mean_firing_magnitudes=peer.LinearMagnitudeConfig(start=5, end=4),
        std_firing_magnitudes=peer.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        correlation=peer.LowRankCorrelationConfig(rank=25, correlation_scale=0.1)
        if correlated
        else None,
        hierarchy=peer.HierarchyConfig(
            total_root_nodes=128,
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        )
        if tree
        else None,
    )
    model = peer.SyntheticModel(cfg)

    def sample():
        acts = model.sample_with_features(BATCH)[1]
        return int((acts.coalesce().values() if acts.is_sparse else acts != 0).count_nonzero())

    return sample


def serve(make):
    """Answer requests of a kind and a number of seconds with rate and L0, line by line."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    made = {}
    for line in sys.stdin:
        kind, seconds = json.loads(line)
        if kind not in made:
            made[kind] = make(*KINDS[kind])
            made[kind]()
        began, n, on = time.perf_counter(), 0, 0
        while n == 0 or time.perf_counter() - began < seconds:
            on += made[kind]()
            n += BATCH
        rate = n / (time.perf_counter() - began)
        sys.stdout.write(json.dumps({"rate": rate, "l0": on / n}) + "\n")
        sys.stdout.flush()


class Side:
    """A process that answers."""

    def __init__(self, python, which):
        command = [python, __file__, "--serve", which]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, kind, seconds):
        """Return rate and L0, or None where the library is not there."""
        try:
            self.process.stdin.write(json.dumps([kind, seconds]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None


def main():
    parser = _command.parser_of(__doc__, "short turns")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with sae-lens")
    parser.add_argument("--serve", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(ours if args.serve == "ours" else theirs)
        return 0
    seconds, turns = (2, 2) if args.quick else (6, 5)
    sides = Side(sys.executable, "ours"), Side(args.peer_python, "theirs")
    rows = []
    print("| configuration | saekit, samples/s | sae-lens, samples/s | ratio | L0 of both |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        asked = [[side.ask(kind, seconds) for side in sides] for _ in range(turns)]
        best = [
            max((a for a in found if a), key=lambda a: a["rate"], default=None)
            for found in zip(*asked, strict=True)
        ]
        us, them = best
        ratio = us["rate"] / them["rate"] if them else None
        rows.append({"configuration": kind, "ours": us, "theirs": them, "ratio": ratio})
        cells = (
            (f"{them['rate']:,.0f}", f"{ratio:.1f}", f"{us['l0']:.1f}, {them['l0']:.1f}")
            if them
            else ("not installed", "", f"{us['l0']:.1f}")
        )
        print(f"| {kind} | {us['rate']:,.0f} | {' | '.join(cells)} |", flush=True)
    for side in sides:
        side.process.stdin.close()
        side.process.wait()
    return _command.finish("truth", args, {"rows": rows}, floors_of(rows, args.quick))


def floors_of(rows, quick):
    """Return what each configuration must reach."""
    floors = []
    for r in rows:
        name = r["configuration"]
        if quick:
            floors.append(Floor(f"{name}: samples/s", r["ours"]["rate"], least=LEAST_RATE_QUICK))
            floors.append(Floor(f"{name}: features on", r["ours"]["l0"], least=25, most=45))
        if r["theirs"] or not quick:
            least = LEAST_RATIO_QUICK if quick else LEAST_RATIO
            why = "sae-lens is not installed"
            floors.append(Floor(f"{name}: over sae-lens", r["ratio"], least=least, why=why))
    return floors


if __name__ == "__main__":
    sys.exit(main())
