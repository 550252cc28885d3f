"""How the cost of a training step grows with latents, k and batch.

    python benchmarks/growth.py [--quick] [--check] [--json]

Times whole optimiser steps of `topk` on random activations, one size changed at a time around
576 x 9216, k 32, 4096 tokens; the slope is that of a straight line through the logarithms: 1
means in proportion. The length of training has no part in the cost of a step: time is in proportion
to tokens.

`--check`: no slope is above 1.1. `--quick --check`: none is above 1.8; a step that visits every
pair of latents or of tokens has 2.
"""

import math
import statistics
import sys
import time

import _command
import torch
from _command import Floor

from saekit.core import machine
from saekit.saes.topk import TopK
from saekit.training.fit import Fit
from saekit.training.trainer import Training

D = 576
MIDDLE = {"d_sae": 9216, "k": 32, "batch": 4096}
SIZES = {
    "d_sae": [4096, 9216, 16384, 32768],
    "k": [16, 32, 64, 128],
    "batch": [1024, 2048, 4096, 8192],
}


def fit_of(d_sae, k, batch, seed=0):
    sae = TopK(d_in=D, d_out=D, d_sae=d_sae, k=k)
    return Fit(sae=sae, tokens=10**9, batch_tokens=batch, seed=seed)


def timed(step, batch, rounds):
    """Return the median seconds of a step on other random activations each time."""
    g = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, D, generator=g) for _ in range(3)]
    taken = []
    for i in range(rounds + 2):
        began = time.perf_counter()
        step(batches[i % 3], batches[i % 3])
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def slope(xs, ys):
    xs, ys = ([math.log(v) for v in values] for values in (xs, ys))
    return statistics.linear_regression(xs, ys).slope


def main():
    args = _command.parser_of(__doc__, "two small sizes of each").parse_args()
    rounds, middle, sizes = (7, MIDDLE, SIZES)
    if args.quick:
        rounds, middle = 2, {"d_sae": 2048, "k": 8, "batch": 1024}
        sizes = {"d_sae": [1024, 2048], "k": [4, 8], "batch": [512, 1024]}
    machine.prepare()
    growth, most = {}, 1.8 if args.quick else 1.1
    print("| changed | ms a step | slope of time |\n|---|---|---|")
    for name, values in sizes.items():
        ms = []
        for value in values:
            fit = fit_of(**middle | {name: value})
            ms.append(1e3 * timed(Training(fit, None).step, fit.step_tokens, rounds))
        growth[name] = {"values": values, "ms": ms, "slope": slope(values, ms)}
        pairs = ", ".join(f"{v:,}: {t:.0f}" for v, t in zip(values, ms, strict=True))
        print(f"| {name} | {pairs} | {slope(values, ms):.2f} |", flush=True)
    print(f"\n{machine.describe()}", file=sys.stderr)
    floors = [Floor(f"{name}: slope", found["slope"], most=most) for name, found in growth.items()]
    return _command.finish("growth", args, {"growth": growth}, floors)


if __name__ == "__main__":
    sys.exit(main())
