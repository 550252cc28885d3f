"""What a suite of evaluations costs, against the bare passes of the model, and of ten SAEs.

    python benchmarks/suites.py [--quick] [--check] [--json] [--model NAME] [--site SITE]

"core" is the core suite of one SAE without floors, against what is bare: the same rows, read to the
site and encoded, a part of them with one clean, one spliced and one ablated pass through the whole
model and their losses. The suite has a second ablation, every metric by block of text, and
intervals; with floors, which is printed too, it has a spliced pass for each.
"ten" is the standard suite of ten SAEs of one site, with floors, against that of one. SAEs have
random weights; evaluations that are not installed, or fail, are named and left out on both sides.
`--check`: core at most 1.3 times what is bare; ten at most 2 times one. `--quick --check`: 4 times
and 9 times, because any SAE is large compared with a tiny model; a suite in which ten SAEs share
nothing has 10.
"""

import sys
import time

import _command
import torch

import saekit
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.activations.rules import fit as fit_rule
from saekit.core import machine
from saekit.data.open import open_corpus
from saekit.data.tokenise import TokenStream
from saekit.evals import _predictions
from saekit.evals._replacing import Look, logits_in_parts, put
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.models.hf import load
from saekit.models.tiny import tiny
from saekit.saes.topk import TopK

MOST, MOST_QUICK = 1.3, 4.0  # of the bare passes
TEN, TEN_QUICK = 2.0, 9.0  # times one SAE
ROWS = 8  # of a pass, as in core
SMALL = {
    "probing.tasks": ["code_or_prose"],
    "probing.n_train": 200,
    "probing.n_test": 200,
    "probing.n_draws": 20,
    "fake_features.n_seqs": 20,
    "fake_features.n_draws": 20,
}


def saes_of(lm, site, corpus, args, n):
    """Return SAEs of random weights at a site, as many latents on as a trained one has."""
    stream = TokenStream(corpus, "train", lm.tokenizer, n_ctx=128)
    tokens = next(iter(stream.rows(ROWS))).tokens
    rule = fit_rule(TokenRule(), lm.tokenizer.special_ids, tokens, lm.read(tokens, site))
    card = Card(
        model=lm.provenance(),
        pair=Pair(read=(str(site),)),
        rules={str(site): rule},
        corpus={},
        n_ctx=128,
        bos=True,
        tokens=0,
    )
    d = lm.width(site)
    cfg = TopK(d_in=d, d_out=d, d_sae=args.latents or 8 * d, k=8 if args.quick else 32)
    return [TrainedSAE(cfg.build(torch.Generator().manual_seed(i)).eval(), card) for i in range(n)]


@torch.no_grad()
def bare(sae, lm, site, corpus, n_tokens, ce_tokens):
    """Do what is compared with: no metric, no block, no interval."""
    stream = TokenStream(corpus, "test", lm.tokenizer, n_ctx=128)
    rule, total = sae.card.rules[str(site)], 0.0
    for rows in stream.rows(ROWS, n_rows=n_tokens // 128):
        tokens = rows.tokens
        if rows.first_row * 128 >= ce_tokens:
            x = lm.read(tokens, site)
            sae.sae(x[rule.keep(tokens, x)].float())
            continue
        look = Look()
        clean = lm.final(tokens, {site: look})
        keep = rule.keep(tokens, look.acts)
        y_hat = sae.sae(look.acts[keep].float())
        spliced = lm.final(tokens, {site: put(keep, y_hat)})
        ablated = lm.final(tokens, {site: put(keep, y_hat.new_zeros(()))})
        scored = _predictions.scored(tokens, rule.special_ids)
        for targets, (p, q) in logits_in_parts(lm, tokens, scored, clean, spliced):
            total += float(_predictions.against(p, q, targets)[1].sum())
        for targets, (r,) in logits_in_parts(lm, tokens, scored, ablated):
            total += float(_predictions.losses(r, targets).sum())
    return total


def seconds(work):
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main():
    parser = _command.parser_of(__doc__, "a tiny model: a minute")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--site", help="[a third of the way up]")
    parser.add_argument("--latents", type=int, help="[8 x width]")
    parser.add_argument("--tokens", type=int, help="[16384; quick: 8192]")
    parser.add_argument("--saes", type=int, default=10)
    args = parser.parse_args()
    machine.prepare()
    lm = tiny(n_layers=6, d_model=64) if args.quick else load(args.model)
    site = lm.site(args.site or f"L{lm.n_layers // 3}.resid_post")
    corpus = open_corpus("stdlib" if args.quick else "packaged")
    n_tokens = args.tokens or (2**13 if args.quick else 2**14)
    ce_tokens = n_tokens // 4
    saes = saes_of(lm, site, corpus, args, args.saes)
    sizes = {"core.n_tokens": n_tokens, "core.ce_tokens": ce_tokens}

    def suite(some, name, floors, settings):
        return saekit.evaluate_suite(
            some, lm, name, floors=floors, corpus=corpus, settings=settings, shown=False
        )

    bare(saes[0], lm, site, corpus, 1024, 512)  # warms up, and tokenises
    suite(saes[:1], "core", [], {"core.n_tokens": 1024, "core.ce_tokens": 512})
    reference, _ = seconds(lambda: bare(saes[0], lm, site, corpus, n_tokens, ce_tokens))
    core, _ = seconds(lambda: suite(saes[:1], "core", [], sizes))
    below, _ = seconds(lambda: suite(saes[:1], "core", None, sizes))
    settings = sizes | (SMALL if args.quick else {})
    one, found = seconds(lambda: suite(saes[:1], "standard", None, settings))
    ten, again = seconds(lambda: suite(saes, "standard", None, settings))
    lost = sorted({row["eval"] for result in (found, again) for row in result.failures})
    ran = sorted({r["eval"] for r in again.rows.rows() if r["status"] == "ok"})
    print(
        f"{lm.name}, {site}, {saes[0].d_sae:,} latents, {n_tokens:,} tokens, {ce_tokens:,} of them "
        f"through the whole model; standard: {', '.join(ran)}; left out: {', '.join(lost) or '-'}"
        f"\n\n| what | seconds | times |\n|---|---|---|"
    )
    for name, value, of in (
        ("bare passes", reference, reference),
        ("core suite", core, reference),
        ("core suite with floors", below, reference),
        ("standard suite of one SAE", one, one),
        (f"standard suite of {args.saes}", ten, one),
    ):
        print(f"| {name} | {value:.1f} | {value / of:.2f} |")
    figures = {
        "model": lm.name,
        "site": str(site),
        "latents": saes[0].d_sae,
        "tokens": n_tokens,
        "evaluations": ran,
        "left_out": lost,
        "seconds": {"bare": reference, "core": core, "floors": below, "one": one, "ten": ten},
        "machine": machine.describe(),
    }
    ends = (MOST_QUICK, TEN_QUICK) if args.quick else (MOST, TEN)
    floors = [
        _command.Floor("core suite over bare passes", core / reference, most=ends[0]),
        _command.Floor(f"standard suite of {args.saes} over one", ten / one, most=ends[1]),
    ]
    return _command.finish("suites", args, figures, floors)


if __name__ == "__main__":
    sys.exit(main())
