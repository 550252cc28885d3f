"""What one process of several holds, sends and takes, next to the formulas of the docs.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/scale.py \
        --latent-shards 2 [--quick] [--check] [--json]

Rows are drawn, so that nothing but training is measured. The formulas are those of
docs/measurements/scale.md. `--check`, with `--quick` too: what is held and what is sent differ from
the formula by at most 1 %.
"""

import time

import _command
import torch
from _command import Floor

from saekit.core import processes
from saekit.core.seeds import generator
from saekit.saes.base import registry
from saekit.training.fit import Fit
from saekit.training.parallel.mesh import open_mesh
from saekit.training.parallel.traffic import Traffic
from saekit.training.trainer import Training

WARM_STEPS, STEPS = 3, 12


class Rows:
    """Batches of random rows: each process draws its part, and those of one latent group swap."""

    def __init__(self, n, d, mesh):
        self.n, self.d, self.mesh, self.index = n // mesh.every.size, d, mesh, 0

    @property
    def served_tokens(self):
        return self.index * self.n * self.mesh.every.size

    def batch(self):
        chance = generator(0, "rows", self.index, self.mesh.every.rank)
        self.index += 1
        x = self.mesh.latent.gather(torch.randn(self.n, self.d, generator=chance)).flatten(0, 1)
        return x, x

    def state(self):
        return {}, {}

    def load(self, tensors, values):
        pass


def expected_bytes(kind, mesh, rows, d, m, k):
    """Return bytes a step that one process sends, without dead latents; a few scalars aside."""
    P, D = mesh.latent.size, mesh.data.size
    group = rows // D  # rows of a latent group
    swap = group / P * d * 4 * (P - 1)
    predict = 2 * group * d * 4 * (P - 1) / P
    # Of batch_topk at most: while training begins, all send what the budget has room for.
    merge = 0 if kind == "jumprelu" else group * k * 4 * (P - 1)
    gradients = 2 * (2 * d * m / P + m / P + d) * 4 * (D - 1) / D
    fired = 2 * m / P * (D - 1) / D  # one byte a latent
    return swap + predict + merge + gradients + fired


def measure(args, world):
    mesh = open_mesh(args.latent_shards)
    cfg = registry.get(args.arch).from_dict(
        registry.get(args.arch).example().to_dict()
        | {"d_in": args.d, "d_out": args.d, "d_sae": args.d_sae}
        | ({"k": args.k} if args.arch in ("topk", "batch_topk") else {"target_l0": float(args.k)})
    )
    tokens = args.rows * (STEPS + WARM_STEPS + 2)
    fit = Fit(sae=cfg, tokens=tokens, batch_tokens=args.rows, dead_after_tokens=10 * tokens)
    training = Training(fit, Rows(args.rows, args.d, mesh), mesh=mesh)
    for _ in range(WARM_STEPS):
        training.step(*training.stream.batch())
    with Traffic() as seen:
        training.step(*training.stream.batch())
    seconds = float("inf")  # the fastest step: others may use the cores
    for _ in range(STEPS):
        began = time.perf_counter()
        training.step(*training.stream.batch())
        seconds = min(seconds, time.perf_counter() - began)
    moments, _ = training.descent.state()
    held = sum(p.nbytes for p in training.sae.parameters())
    found = {
        "mesh": f"{mesh.data.size}x{mesh.latent.size}",
        "arch": args.arch,
        "d": args.d,
        "d_sae": args.d_sae,
        "k": args.k,
        "rows": args.rows,
        "weight_bytes": held,
        "state_bytes": 2 * held + sum(t.nbytes for t in moments.values()),
        "state_bytes_formula": 16 * (2 * args.d * args.d_sae + args.d_sae) // mesh.latent.size
        + 16 * args.d,
        "calls": dict(seen.calls),
        "largest_message": dict(seen.largest),
        "seconds_a_step": world.max(torch.tensor(seconds)).item(),
    }
    if 1 in (mesh.data.size, mesh.latent.size):
        size = mesh.every.size
        found["sent_bytes_a_token"] = seen.sent(size) / args.rows
        found["sent_bytes_a_token_formula"] = (
            expected_bytes(args.arch, mesh, args.rows, args.d, args.d_sae, args.k) / args.rows
        )
    return found


def floors_of(found):
    """Return how far what is held and sent may be from the formula."""
    floors = []
    for key in ("state_bytes", "sent_bytes_a_token"):
        if key in found:
            formula = found[f"{key}_formula"]
            off = abs(found[key] - formula) / max(formula, 100)
            floors.append(Floor(f"{key}: difference from the formula", off, most=0.01))
    return floors


def main():
    ask = _command.parser_of(__doc__, "a small SAE and few rows")
    ask.add_argument("--arch", default="topk")
    ask.add_argument("--d", type=int, default=256)
    ask.add_argument("--d-sae", type=int, default=2**14)
    ask.add_argument("--k", type=int, default=32)
    ask.add_argument("--rows", type=int, default=2048)
    ask.add_argument("--latent-shards", type=int, default=1)
    args = ask.parse_args()
    if args.quick:
        args.d, args.d_sae, args.rows = 64, 4096, 512
    with processes.session() as world:
        found = measure(args, world)
        if not world.first:
            return 0
        print("\n".join(f"{key:28} {value}" for key, value in found.items()))
        return _command.finish("scale", args, found, floors_of(found))


if __name__ == "__main__":
    processes.leave(main())
