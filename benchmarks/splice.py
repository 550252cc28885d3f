"""A pass of the language model with an SAE in it, beside the bare pass and sae-lens' wrapper.

    python benchmarks/splice.py [--peer-python PYTHON] [--quick] [--check] [--json]

The embedded model in float32, 8 rows of 128 tokens, a TopK SAE of 16,384 latents (k 32, random
weights: what a pass costs does not depend on them) at the residual stream after block 10 of 30.
Entries: the bare pass to the logits; the same inside `saekit.splice` with the error term and no
edit; with one latent edited; with reconstructions put in place; the SAE's encoder alone. Then 8
prompts of 32 tokens continued by 32, bare and with one latent edited at every token. sae-lens: its
HookedSAETransformer with the same weights and `use_error_term=True`, and its own bare pass, since
its model is another implementation: compare each library with its own bare pass.

`--quick --check`: everything runs, the spliced pass without an edit has the bare pass's logits to
the bit, and the edited one has others.

What would mislead: a smaller SAE or longer rows make the SAE's share of a pass smaller.
"""

import sys
from pathlib import Path

import _side_by_side as side
import harvest
import torch
from _command import Floor
from _side_by_side import Entry, Job

SITE, LATENT = "L10.resid_post", 7
SIZES = {"d_sae": 16384, "k": 32, "rows": 8, "n_ctx": 128, "prompt": 32, "new": 32}
SMALL = {"d_sae": 1024, "rows": 2, "n_ctx": 32, "prompt": 8, "new": 4}


class Setting:
    """Model, SAE and tokens of one entry."""

    def __init__(self, spec):
        import saekit
        from saekit.activations.pairs import Pair
        from saekit.hub.card import Card
        from saekit.hub.trained import TrainedSAE
        from saekit.saes.topk import TopK

        self.lm = saekit.load_model("smollm2-135m")
        d = self.lm.d_model
        cfg = TopK(d_in=d, d_out=d, d_sae=spec["d_sae"], k=spec["k"])
        sae = cfg.build(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
        card = Card(
            model=self.lm.provenance(),
            pair=Pair(read=(SITE,)),
            rules={},
            corpus={"name": "none"},
            n_ctx=spec["n_ctx"],
            bos=False,
            tokens=0,
        )
        self.sae = TrainedSAE(sae, card)
        chance = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(100, 40000, (spec["rows"], spec["n_ctx"]), generator=chance)
        self.prompts = self.tokens[:, : spec["prompt"]].tolist()
        self.n_new = spec["new"]

    def attached(self, *, edit=False, error=True):
        """Return the model inside a splice that stays."""
        import saekit

        spliced = saekit.splice(self.lm, self.sae, error=error)
        if edit:
            spliced.edit(LATENT, add=5.0)
        spliced.__enter__()
        return self.lm


def _pass(s, lm):
    step = torch.no_grad()(lambda: lm.logits(s.tokens))
    # Two numbers by which entries are told apart: a sum and one logit.
    return Job(step, s.tokens.numel(), lambda: {"sum": float(step().double().sum())})


def _generation(s, lm):
    def step():
        lm.continue_tokens(s.prompts, s.n_new, temperature=0.0, stop=[])

    return Job(step, len(s.prompts) * s.n_new)


def saekit_bare(spec):
    s = Setting(spec)
    return _pass(s, s.lm)


def saekit_spliced(spec):
    s = Setting(spec)
    return _pass(s, s.attached())


def saekit_edited(spec):
    s = Setting(spec)
    return _pass(s, s.attached(edit=True))


def saekit_replaced(spec):
    s = Setting(spec)
    return _pass(s, s.attached(error=False))


def saekit_encode(spec):
    s = Setting(spec)
    acts = s.lm.read(s.tokens, SITE)
    return Job(lambda: s.sae.encode(acts), s.tokens.numel())


def saekit_generate(spec):
    s = Setting(spec)
    return _generation(s, s.lm)


def saekit_generate_edited(spec):
    s = Setting(spec)
    return _generation(s, s.attached(edit=True))


def sae_lens(spec, *, attached=True):
    from sae_lens import HookedSAETransformer, saes
    from sae_lens.saes.sae import SAEMetadata

    s = Setting(spec)
    hooked = harvest.hooked_transformer(s.lm.module.float(), None)
    model = HookedSAETransformer(hooked.cfg)
    model.load_state_dict(hooked.state_dict())
    cfg = saes.TopKSAEConfig(
        d_in=s.lm.d_model,
        d_sae=spec["d_sae"],
        k=spec["k"],
        metadata=SAEMetadata(hook_name="blocks.10.hook_resid_post"),
    )
    sae = saes.TopKSAE(cfg).eval()
    own = s.sae.sae
    sae.load_state_dict({n: getattr(own, n).detach() for n in ("W_enc", "W_dec", "b_enc", "b_dec")})
    if attached:
        model.add_sae(sae, use_error_term=True)
    step = torch.no_grad()(lambda: model(s.tokens))
    return Job(step, s.tokens.numel())


def sae_lens_bare(spec):
    return sae_lens(spec, attached=False)


MAKERS = {
    f.__name__: f
    for f in (
        saekit_bare,
        saekit_spliced,
        saekit_edited,
        saekit_replaced,
        saekit_encode,
        saekit_generate,
        saekit_generate_edited,
        sae_lens_bare,
        sae_lens,
    )
}


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    options = side.made_quick(side.parser_of(__doc__).parse_args())
    spec = SIZES | (SMALL if options.quick else {})
    names = [n for n in MAKERS if side.wanted(n, options)]
    names = [n for n in names if options.peer_python or not n.startswith("sae_lens")]
    entries = [Entry(n, side.python_of(n, options)) for n in names]
    results = side.race(entries, Path(__file__), spec, options)
    print(f"\n{side.race_table(results, 'saekit-spliced')}\n")
    found = {label.replace("-", "_"): r for label, r in results.items() if side.ran(r)}
    seconds = {name: r["seconds"] for name, r in found.items()}

    def ratio(top, *below):
        whole = sum(seconds.get(n, float("nan")) for n in below)
        return seconds.get(top, float("nan")) / whole if whole else float("nan")

    figures = {
        "spliced over bare plus encode": ratio("saekit_spliced", "saekit_bare", "saekit_encode"),
        "spliced over bare": ratio("saekit_spliced", "saekit_bare"),
        "edited over bare": ratio("saekit_edited", "saekit_bare"),
        "replaced over bare": ratio("saekit_replaced", "saekit_bare"),
        "generation edited over bare": ratio("saekit_generate_edited", "saekit_generate"),
    }
    if options.peer_python:
        figures["sae-lens spliced over its bare"] = ratio("sae_lens", "sae_lens_bare")
    sums = {name: r["sum"] for name, r in found.items() if "sum" in r}
    same = float(sums.get("saekit_spliced") == sums.get("saekit_bare"))
    moved = float(sums.get("saekit_edited") != sums.get("saekit_bare"))
    targets = [
        side.Target(
            "spliced over bare plus encode",
            figures["spliced over bare plus encode"],
            1.15,
            1.05,
            most=True,
        ),
        side.Target(
            "generation, edited over bare",
            figures["generation edited over bare"],
            1.3,
            1.1,
            most=True,
        ),
    ]
    quick = [
        side.all_ran(results, options),
        Floor("no edit: same logits", same, least=1),
        Floor("edit: other logits", moved, least=1),
    ]
    side.finish("splice", options, {"results": results, "ratios": figures}, targets, quick)


if __name__ == "__main__":
    main()
