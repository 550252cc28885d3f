"""Influence of tokens on latents: saekit beside the published loop, in one run.

    python benchmarks/locality.py [--quick] [--check] [--json] [--threads N]

The published way is stated again here in our words (`loop`): for each window alone, the token
embedding module is swapped for a constant that requires a gradient; the whole model runs, LM head
included; every position is encoded; a loop over all latents compares each with the threshold and,
where it is on, calls `backward` on it, which also adds up gradients of every weight; then the model
runs once more without a graph, for activations. For the token vector it runs twice more and takes
one gradient for each dimension of the residual stream. Nothing in it is made slower than it was
written; the library's defaults decide attention and matrix products for it as for any script.

Two settings, each with the latents that are on in a window in brackets: `pythia`, random weights in
the shape of pythia-70m with 32,768 latents (ReLU), block 3 of 6, the published default; `smollm2`,
the embedded model with 16,384 latents (TopK), block 10 of 30. The SAEs are random: what a
gradient costs does not depend on weights. Windows have 64 tokens. All entries of a setting get the
same weights, windows and SAE, and the results of both ways are compared before they are timed.

`--quick --check`: both ways give the same influences and entropies, as in full, and all run.

What would mislead: SAEs of few latents make the loop cheaper by what it pays to encode all
positions; on a processor where PyTorch's default float32 product is as fast as oneDNN's the ratio
is smaller (see the record's `machine`), for that factor of about 2 is the product alone.
"""

import contextlib
import functools
import sys
from pathlib import Path

import _side_by_side as side
import numpy as np
import torch
from _side_by_side import Entry, Job

N_CTX = 64
PYTHIA = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 2048,
    "vocab_size": 50304,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
}
SETTINGS = {
    "pythia": {"layer": 3, "d_sae": 32768, "on": 64, "d_model": 512},
    "smollm2": {"layer": 10, "d_sae": 16384, "on": 64, "d_model": 576},
}
QUICK = {"layer": 0, "d_sae": 512, "on": 8, "windows": 2}
PROBES = 64
WINDOWS = 4  # that saekit takes at once; the loop takes one
FLOORS = {"features": 10, "exact": 5, "hutchinson": 30}
WAYS = {"": "float32", "_bfloat16": "bfloat16"}  # of gradients' products
AGREE = 1e-3  # relative difference of entropies and influences between the two ways


def module_of(setting):
    if setting == "smollm2":
        from transformers import AutoModelForCausalLM

        from saekit.models.embedded.unpacking import embedded

        return AutoModelForCausalLM.from_pretrained(embedded("smollm2-135m"), dtype=torch.float32)
    from saekit.models.hf import new_module

    torch.manual_seed(0)
    return new_module("gpt_neox", PYTHIA).float()


def sae_of(spec):
    """Return the SAE of a setting: ReLU with a bias that leaves about `on` latents, or TopK."""
    from saekit.saes.relu import ReLU
    from saekit.saes.topk import TopK

    sizes = {"d_in": spec["d_model"], "d_out": spec["d_model"], "d_sae": spec["d_sae"]}
    draw = torch.Generator().manual_seed(0)
    if spec["setting"] == "smollm2":
        return TopK(**sizes, k=spec["on"]).build(draw).requires_grad_(False)
    sae = ReLU(**sizes).build(draw).requires_grad_(False)
    sae.b_enc.data.fill_(-spec["bias"])
    return sae


def tokens_of(spec):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 40000, (spec["windows"], N_CTX), generator=draw)


class Loop:
    """The published way, on one window."""

    def __init__(self, spec):
        self.model = module_of(spec["setting"]).eval()  # weights keep requiring gradients
        sae = sae_of(spec)
        self.W, self.b, self.on = sae.W_enc.data.contiguous(), sae.b_enc.data, spec["on"]
        self.relu = spec["setting"] == "pythia"
        self.tokens, self.turn = tokens_of(spec), 0
        self.layer, decoder = spec["layer"], self.model.get_decoder()
        self.decoder, self.name = decoder, "embed_in" if self.relu else "embed_tokens"

    def encode(self, y):
        pre = torch.matmul(y, self.W) + self.b
        if self.relu:
            return torch.relu(pre)
        top = pre.topk(self.on, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())

    @contextlib.contextmanager
    def watched(self, window, x=None):
        """Run the model and give the residual stream after the layer."""
        found, kept = [], getattr(self.decoder, self.name)
        handle = self.decoder.layers[self.layer].register_forward_hook(
            lambda _m, _a, out: found.append(out[0] if isinstance(out, tuple) else out)
        )
        if x is not None:
            setattr(self.decoder, self.name, _Constant(x))
        try:
            self.model(window[None])
            yield found[0]
        finally:
            setattr(self.decoder, self.name, kept)
            handle.remove()

    def embeddings(self, window):
        return getattr(self.decoder, self.name)(window[None]).detach()

    def features(self):
        window = self.tokens[self.turn % len(self.tokens)]
        self.turn += 1
        x, influences = self.embeddings(window).requires_grad_(), {}
        with self.watched(window, x) as y:
            last = self.encode(y)[0, -1]
            for latent in range(len(last)):
                if last[latent] > 0:
                    if x.grad is not None:
                        x.grad.zero_()
                    last[latent].backward(retain_graph=True)
                    J = (x.grad.clone() ** 2).sum(-1)[0]
                    influences[latent] = J.numpy()
        with torch.no_grad(), self.watched(window) as y:
            acts = self.encode(y)[0, -1].numpy()
        activations = {a: float(acts[a]) for a in influences}
        return influences, activations, {a: _entropy(J) for a, J in influences.items()}

    def exact(self):
        window = self.tokens[self.turn % len(self.tokens)]
        features = self.features()
        with torch.no_grad(), self.watched(window):
            pass  # it reads the vector once before it asks for the Jacobian

        def last(x):
            with self.watched(window, x) as y:
                return y[0, -1]

        jacobian = torch.autograd.functional.jacobian(last, self.embeddings(window))
        R = jacobian.square().sum((0, -1))[0].numpy()
        return *features, R, _entropy(R)


class _Constant(torch.nn.Module):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, _ids):
        return self.x


def _entropy(J):
    raised = J + 1e-12
    P = raised / raised.sum()
    return float(-(P * np.log2(P)).sum())


def loop_features(spec):
    loop = Loop(spec)
    return Job(loop.features, 1)


def loop_exact(spec):
    loop = Loop(spec)
    return Job(loop.exact, 1)


class Ours:
    def __init__(self, spec):
        from saekit.models.hf import HFModel
        from saekit.models.tiny import ByteTokenizer

        module = module_of(spec["setting"])
        self.lm = HFModel(module, ByteTokenizer(), name=spec["setting"], revision="")
        self.sae, self.tokens = sae_of(spec), tokens_of(spec)
        self.site = f"L{spec['layer']}.resid_post"
        self.pairs = 0

    def features(self, method="vjp", matmul="float32"):
        from saekit.studies.locality.influence.base import influence

        found = influence(self.lm, self.sae, self.tokens, self.site, method=method, matmul=matmul)
        self.pairs = len(found.J)
        return found, found.entropy_bits()

    def exact(self, matmul="float32"):
        from saekit.studies.locality.influence.entropy import entropy_bits

        found, H = self.features("jacobian", matmul)
        return found, H, found.R, entropy_bits(found.R)

    def hutchinson(self, matmul="float32"):
        from saekit.studies.locality.influence.baseline import token_vector
        from saekit.studies.locality.influence.entropy import entropy_bits

        found, H = self.features(matmul=matmul)
        R = token_vector(
            self.lm, None, self.tokens, self.site, method="hutchinson", probes=PROBES, matmul=matmul
        )
        return found, H, R, entropy_bits(R.R)

    @classmethod
    def job(cls, what, matmul, spec):
        ours = cls(spec)
        step = functools.partial(getattr(ours, what), matmul=matmul)
        return Job(step, len(ours.tokens), lambda: {"l0": ours.pairs / len(ours.tokens)})


def rounding(spec):
    """Return what products in bfloat16 change, beside the standard error of the probes."""
    from saekit.studies.locality.influence.checks import agreement as alike
    from saekit.studies.locality.influence.entropy import Places

    ours = Ours(spec)
    (one, H, R, H_R), (other, H2, R2, H_R2) = (ours.exact(m) for m in ("float32", "bfloat16"))
    probed = ours.hutchinson()[2]
    scale = one.J.amax(-1, keepdim=True)
    ranks = alike(one.J, other.J, Places(one.first, one.position))["rank_correlation"]
    known = R.gt(0)
    return {
        "influence": float(((other.J - one.J).abs() / scale).max()),
        "entropy_bits": float((H2 - H).abs().max()),
        "entropy_bits_mean": float((H2 - H).mean()),
        "rank_correlation_least": float(ranks.min()),
        "token_vector": float(((R2 - R).abs() / R)[known].max()),
        "token_vector_entropy_bits": float((H_R2 - H_R).abs().max()),
        "probes_standard_error": float((probed.standard_error / R)[known].median()),
    }


def agreement(spec):
    """Return the largest relative differences of the two ways' numbers on one window."""
    loop, ours = Loop(spec), Ours(spec | {"windows": 1})
    J, acts, H, R, H_R = loop.exact()
    found, H2, R2, H_R2 = ours.exact()
    if list(J) != found.latent.tolist():
        raise SystemExit(f"The two ways find other latents: {list(J)} and {found.latent.tolist()}.")
    want = np.stack(list(J.values()))
    scale = want.max(-1, keepdims=True)
    return {
        "latents": len(J),
        "influence": float((np.abs(found.J.numpy() - want) / scale).max()),
        "activation": float(np.abs(found.activation.numpy() - list(acts.values())).max()),
        "entropy_bits": float(np.abs(H2.numpy() - list(H.values())).max()),
        "token_vector": float(np.abs(R2[0].numpy() - R).max() / R.max()),
        "token_vector_entropy_bits": abs(float(H_R2[0]) - H_R),
    }


def bias_for(spec):
    """Return a bias that leaves about `on` latents of the ReLU SAE on, none of them barely."""
    from saekit.models.sites import parse_site

    ours = Ours(spec | {"bias": 0.0})
    x = ours.lm.read(ours.tokens, [parse_site(ours.site)])[parse_site(ours.site)][:, -1]
    pre = x @ ours.sae.W_enc
    return float(pre.flatten().topk(spec["on"] * len(x) + 1).values[-2:].mean())


def main():
    parser = side.parser_of(__doc__)
    parser.set_defaults(threads=1, rounds=2, seconds=0.0, warm_up=0)
    parser.add_argument(
        "--settings",
        nargs="*",
        default=["pythia"],
        choices=list(SETTINGS),
        help="smollm2 takes half an hour: its loop takes 576 gradients through 11 blocks a window",
    )
    options = parser.parse_args()
    side.made_quick(options)
    torch.set_num_threads(options.threads)
    figures, targets, floors = {}, [], []
    for setting in options.settings:
        spec = {"setting": setting, "windows": WINDOWS, "bias": 0.0} | SETTINGS[setting]
        spec |= QUICK if options.quick else {}
        if setting == "pythia":
            spec["bias"] = bias_for(spec)
        agreed = agreement(spec)
        names = ["loop_features", "loop_exact"]
        names += [f"saekit_{what}{how}" for what in FLOORS for how in WAYS]
        rounded = rounding(spec)
        entries = [Entry(n, sys.executable) for n in names if side.wanted(n, options)]
        results = side.race(entries, Path(__file__), spec, options)
        title = f"{setting}, {agreed['latents']} latents on"
        print(f"\n{title}; the two ways differ by at most {agreed}\n")
        print(side.race_table(results, "saekit-features"))
        print(f"\nProducts in bfloat16 change at most, relative or in bits: {rounded}\n")
        figures[setting] = {
            "spec": spec,
            "agreement": agreed,
            "bfloat16": rounded,
            "results": results,
        }
        for what, floor in FLOORS.items():
            theirs = results.get("loop-exact" if what != "features" else "loop-features")
            for how in WAYS:
                ours = results.get(f"saekit-{what}{how}".replace("_", "-"))
                if theirs is not None and ours is not None:
                    name = f"{title}: {what}{how.replace('_', ', ')}, times as fast"
                    targets.append(side.compared(name, ours, theirs, floor, floor))
        worst = max(v for k, v in agreed.items() if k != "latents")
        targets.append(side.Target(f"{title}: largest difference", worst, AGREE, AGREE, most=True))
        floors += [targets[-1].as_floor, side.all_ran(results, options)]
    side.finish("locality", options, figures, targets, floors)


if __name__ == "__main__":
    if "--worker" in sys.argv:
        makers = {f.__name__: f for f in (loop_features, loop_exact)}
        for what in FLOORS:
            for how, matmul in WAYS.items():
                makers[f"saekit_{what}{how}"] = functools.partial(Ours.job, what, matmul)
        side.serve(makers)
    else:
        main()
