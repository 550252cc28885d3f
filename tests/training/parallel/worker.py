"""What one process of several does in a test: `python -m tests.training.parallel.worker CASE OUT`.

Each compares with what it computes alone, in the same process, and the first writes what it saw.
"""

import json
import os
import sys
from pathlib import Path

import torch

from saekit.core import processes
from saekit.core.seeds import generator
from saekit.saes.base import registry
from saekit.training.fit import Fit
from saekit.training.parallel import shards
from saekit.training.parallel.mesh import open_mesh
from saekit.training.parallel.traffic import Traffic
from saekit.training.trainer import Training

D, ROWS, STEPS = 16, 96, 8


class Planted:
    """Rows of a sparse world; a process is given its share of each batch."""

    def __init__(self, cfg, group):
        self.cfg, self.group, self.index = cfg, group, 0
        self.served_tokens = 0
        self.directions = torch.randn(64, cfg.d_in, generator=generator(0, "world"))

    def batch(self):
        event = [3] * len(self.cfg.event)
        chance = generator(0, "rows", self.index)
        on = torch.rand(ROWS, *event, 64, generator=chance)
        x = torch.where(on < 0.05, on * 20, torch.zeros(())) @ self.directions
        x += 0.1 * torch.randn(x.shape, generator=chance)
        self.index += 1
        self.served_tokens += ROWS
        x = x[self.group.share(ROWS)]
        return x, x

    def state(self):
        return {}, {"index": self.index}

    def load(self, tensors, values):
        self.index = values["index"]


def fit_of(name, d_sae=64, **more):
    raw = registry.get(name).example().to_dict() | {"d_in": D, "d_out": D, "d_sae": d_sae}
    if "inner" in raw:
        raw["inner"] |= {"d_in": D, "d_out": D, "d_sae": d_sae}
    raw |= {"n_sites": 3} if "n_sites" in raw else {}
    raw |= {"aux_coefficient": 0.5} if "aux_coefficient" in raw else {}
    raw |= {"pre_act_coefficient": 0.1} if "pre_act_coefficient" in raw else {}
    settings = {"tokens": ROWS * STEPS, "batch_tokens": ROWS, "lr": 3e-3, "clip_norm": 0.05}
    settings |= {"dead_after_tokens": 2 * ROWS, "warm_up_steps": 1, "checkpoint_tokens": 10**6}
    return Fit(sae=registry.get(name).from_dict(raw | more), **settings)


def trained(fit, mesh, n_steps=STEPS):
    training = Training(fit, Planted(fit.sae, mesh.data), mesh=mesh)
    seen = []
    for _ in range(n_steps):
        x, y = training.stream.batch()
        loss = training.step(x, y)
        named = training.sae.named_parameters()
        grads = {n: p.grad.clone() for n, p in named if p.grad is not None}
        seen.append((float(mesh.data.mean(loss.total.detach())), loss, grads))
    return training, seen


def furthest(one, other):
    """Return the largest difference as a share of the largest number."""
    assert one.shape == other.shape, (one.shape, other.shape)
    if not one.numel():
        return 0.0
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def part_of(value, name, mesh):
    axis = shards.axis_of(name)
    if axis is None or mesh.latent.size == 1:
        return value
    own = mesh.latent.share(value.shape[axis])
    return value.narrow(axis, own.start, own.stop - own.start)


def compare(fit, mesh):
    alone, before = trained(fit, processes.ALONE)
    several, after = trained(fit, mesh)
    out = {"loss": 0.0, "gradients": 0.0, "codes": 0.0, "entries": 0, "dead": 0}
    for step, ((a, loss, ga), (b, here, gb)) in enumerate(zip(before, after, strict=True)):
        out["loss"] = max(out["loss"], abs(a - b) / abs(a))
        if step > 2:  # later weights differ in their last bits, and Adam enlarges what is near 0
            continue
        longest = max(float(g.abs().max()) for g in ga.values())
        for name in ga:
            off = (gb[name] - part_of(ga[name], name, mesh)).abs().max()
            out["gradients"] = max(out["gradients"], float(off) / longest)
        own = slice(None)
        if mesh.latent.size > 1:
            own = mesh.latent.share(fit.sae.d_sae)
        whole = loss.acts._replace(batch=(loss.acts.n_rows,)).dense()
        rows = mesh.data.share(len(whole))
        mine = here.acts._replace(batch=(here.acts.n_rows,)).dense()
        out["codes"] = max(out["codes"], furthest(mine, whole[rows, own]))
        out["entries"] = int(mesh.every.sum(torch.tensor(len(here.acts.values))))
        assert out["entries"] == len(loss.acts.values), (out["entries"], len(loss.acts.values))
        y_hat = loss.y_hat[mesh.data.share(len(loss.y_hat))]
        out["codes"] = max(out["codes"], furthest(here.y_hat, y_hat))
    silent = several.silent_tokens
    expected = part_of(alone.silent_tokens, "b_enc", mesh)
    out["counters"] = float((silent != expected).sum())
    out["dead"] = int(alone.dead.sum())
    weights = alone.sae.state_dict()
    out["weights"] = max(
        furthest(value, part_of(weights[name], name, mesh))
        for name, value in several.sae.state_dict().items()
    )
    full = shards.whole(several.sae, mesh)
    assert (full is not None) == mesh.every.first
    if full is not None:
        assert {k: v.shape for k, v in full.state_dict().items()} == {
            k: v.shape for k, v in weights.items()
        }
    rows = zip(*everyone(out), strict=True)
    return {key: max(float(v) for v in row) for key, row in zip(out, rows, strict=True)}


def everyone(out):
    return [list(json.loads(text).values()) for text in processes.world().texts(json.dumps(out))]


def equal(world):
    found = {}
    for shards_of in [s for s in (1, 2, 4) if world.size % s == 0]:
        mesh = open_mesh(shards_of)
        names = ("topk", "batch_topk", "jumprelu") if shards_of > 1 else registry.names()
        if world.size == 4 and shards_of == 1:
            names = ("topk", "batch_topk", "jumprelu")
        for name in names:
            found[f"{mesh.data.size}x{shards_of} {name}"] = compare(fit_of(name), mesh)
        if shards_of > 1:
            for penalty in ("step", "tanh"):
                found[f"{mesh.data.size}x{shards_of} jumprelu {penalty}"] = compare(
                    fit_of("jumprelu", penalty=penalty), mesh
                )
            wide = fit_of("topk", k=40)  # more than the latents of a process
            found[f"{mesh.data.size}x{shards_of} topk wide"] = compare(wide, mesh)
            turned = fit_of("topk", d_out=D + 3)
            assert furthest_start(turned, mesh) == 0.0
    return found


def furthest_start(fit, mesh):
    """Return how far initial weights are from those of one process."""
    alone = shards.build(fit.sae, generator(0, "init"), processes.ALONE).state_dict()
    here = shards.build(fit.sae, generator(0, "init"), mesh).state_dict()
    return max(furthest(v, part_of(alone[k], k, mesh)) for k, v in here.items())


def traffic(world):
    """Count what a step sends: with latents dealt, and with rows dealt."""
    found = {}
    for shards_of in (1, world.size):
        mesh = open_mesh(shards_of)
        for name in ("topk", "batch_topk", "jumprelu"):
            fit = fit_of(name, d_sae=4096)
            training, _ = trained(fit, mesh, 4)
            x, y = training.stream.batch()
            with Traffic() as seen:
                training.step(x, y)
            assert training.dead.any()
            found[f"{mesh.data.size}x{shards_of} {name}"] = {
                "calls": dict(seen.calls),
                "largest": dict(seen.largest),
            }
    return found


def ties(world):
    """All pre-activations equal, or half of them: exactly k are kept, everywhere the same."""
    from saekit.kernels import shared

    mesh = open_mesh(world.size)
    x = torch.ones(5, 3)
    W = torch.ones(3, 8 * world.size).t().contiguous().t()
    W[:, ::2] = W[:, ::2] * 1
    b = torch.zeros(8 * world.size)
    own = mesh.latent.share(len(b))
    counts = {}
    for k in (1, 3, 8, 13):
        codes = shared.top_latents(x, W[:, own].t().contiguous().t(), b[own], k, mesh.latent)
        counts[k] = mesh.latent.sum(codes.starts.diff()).tolist()
    values = torch.full((6,), 2.0)
    here = torch.tensor(6)
    on = shared.among_top(values, 7, mesh.every.gather(here), mesh.every)
    counts["batch"] = int(mesh.every.sum(on.sum()))
    return counts


def stuck(world):
    """One process fails before a collective that the others wait in."""
    if world.rank == 1:
        raise ValueError("the disk of process 1 is on fire")
    world.sum(torch.ones(1))
    return {}


def nan(world):
    """One process has a row that is not finite."""
    from saekit.core.errors import TrainingError

    mesh = open_mesh(1)
    training, _ = trained(fit_of("topk"), mesh, 2)
    x, _ = training.stream.batch()
    before = {k: v.clone() for k, v in training.sae.state_dict().items()}
    if world.rank == 1:
        x[0, 0] = float("nan")
    try:
        training.step(x, x)
    except TrainingError as error:
        same = all(torch.equal(v, before[k]) for k, v in training.sae.state_dict().items())
        said = world.texts(json.dumps([str(error), same]))
        return {"said": [json.loads(s) for s in said]}
    raise AssertionError("the step was done")


def large(world):
    """Build a share of an SAE that would not fit: 2 GB of weights a matrix, a share of 0.5."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fit = fit_of("topk", d_sae=2**21)
    sae = shards.build(fit.sae, generator(0, "init"), open_mesh(world.size))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"share_bytes": sum(p.nbytes for p in sae.parameters()), "grown_bytes": grown}


def checks(world):
    """Everything that two processes can show quickly."""
    return {
        "equal": equal(world),
        "ties": ties(world),
        "traffic": traffic(world),
        "nan": nan(world),
        "large": large(world),
    }


class Stopped(Exception):
    """The run ends here, as if it had been killed, on every process."""


def run(world, settings):
    """Train on the tiny model; `stop` ends it before a step."""
    from saekit.training import loop
    from tests import world as tests_world

    folder = Path(settings.pop("folder"))
    how = {key: settings.pop(key) for key in ("resume", "latent_shards") if key in settings}
    out, stop = folder / settings.pop("out"), settings.pop("stop", None)
    real = loop.Training.step

    def step(self, x, y):
        if self.index == stop:
            raise Stopped
        return real(self, x, y)

    loop.Training.step = step
    if name := settings.pop("arch", None):
        raw = registry.get(name).example().to_dict() | {"d_in": 32, "d_out": 32, "d_sae": 64}
        settings["sae"] = registry.get(name).from_dict(raw)
    described = tests_world.run(folder, **settings)
    try:
        loop.train(described, tests_world.model(), out, shown=False, **how)
    except Stopped:
        return {"stopped": True}
    return {"stopped": False}


def main():
    case, out = sys.argv[1], Path(sys.argv[2])
    with processes.session() as world:
        found = globals()[case](world, *[json.loads(word) for word in sys.argv[3:]])
        if world.first:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - what the test reads
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        if "VERBOSE" in os.environ:
            raise
        processes.leave(1)
    processes.leave(0)
