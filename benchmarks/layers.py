"""How fast text is surveyed at all layers, against bare harvesting at the same layers.

    python benchmarks/layers.py [--quick] [--check] [--json] [--model NAME] [--latents N]

Both read the same rows of the same text with the same model, in turn, several times: "bare" is
`Harvest.read` and nothing else, "encoded" runs the SAE at every layer too, and "survey" is
`studies.layers.survey.survey` with its examples: counts, sums, shares, the strongest contexts. The
SAE has random weights, with as many active latents a token as a trained one. What it costs grows
with its width: at 8 x the model's, its encoder does three quarters of the model's own work. Short
samples tell too little: most examples are found in the first thousands of tokens.
`--check`: the survey reaches half the speed of bare harvesting, at the medians. `--quick --check`:
a fiftieth, because any SAE is large compared with a tiny model.
"""

import dataclasses
import statistics
import sys
import time

import _command
import torch

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core import machine
from saekit.data.open import open_corpus
from saekit.data.tokenise import TokenStream
from saekit.hub.card import Card
from saekit.hub.shared import SharedSAE
from saekit.models.hf import load
from saekit.models.site_patterns import expand_sites
from saekit.models.tiny import tiny
from saekit.saes.standardised import Standardised
from saekit.saes.topk import TopK
from saekit.studies.layers.survey import SurveyConfig, codes_of, survey
from saekit.training.scaling import fit_scaling

LEAST, LEAST_QUICK = 0.5, 0.02  # of the speed of bare harvesting


def setting(args):
    """Return model, text, harvest and a shared SAE with random weights at every layer."""
    lm = tiny(n_layers=6, d_model=64) if args.quick else load(args.model)
    corpus = open_corpus("stdlib" if args.quick else "packaged")
    stream = TokenStream(corpus, "test", lm.tokenizer, n_ctx=128)
    pair = Pair(read=tuple(expand_sites(["L*.resid_post"], lm)), fold=True)
    harvest = Harvest(lm, stream, pair, TokenRule(), batch_rows=args.batch_rows)
    latents = args.latents or 4 * lm.d_model
    sizes = {"d_in": lm.d_model, "d_out": lm.d_model, "d_sae": latents}
    cfg = Standardised(**sizes, inner=TopK(**sizes, k=8 if args.quick else 32))
    fit_scaling(harvest, cfg)
    sae = cfg.build(torch.Generator().manual_seed(0)).eval()
    card = Card(
        model=lm.provenance(),
        pair=pair,
        rules=harvest.rules,
        corpus={},
        n_ctx=128,
        bos=True,
        tokens=0,
        scalings={str(s): both for s, both in harvest.scalings.items()},
    )
    return lm, stream, harvest, SharedSAE(sae, card)


def main():  # noqa: C901 - options, three passes and their table, in order
    parser = _command.parser_of(__doc__, "a tiny model: seconds")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--latents", type=int, help="[4 x width]")
    parser.add_argument("--tokens", type=int, help="a sample [49152; quick: 65536]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-rows", type=int, default=16)
    args = parser.parse_args()
    machine.prepare()
    lm, stream, harvest, shared = setting(args)
    tokens = args.tokens or (2**16 if args.quick else 3 * 2**14)
    n_rows = tokens // stream.n_ctx
    config = SurveyConfig(tokens=tokens, batch_rows=args.batch_rows)

    def bare(first, n):
        for rows in stream.rows(args.batch_rows, first_row=first, n_rows=n):
            harvest.read(rows)

    def surveyed(first, n):
        part = dataclasses.replace(config, first_row=first, tokens=n * stream.n_ctx)
        survey(shared, lm, stream, part, shown=False)

    def encoded(first, n):
        for rows in stream.rows(args.batch_rows, first_row=first, n_rows=n):
            for _ in codes_of(shared, lm, rows):
                pass

    passes = {"bare": bare, "encoded": encoded, "survey": surveyed}
    speeds = {name: [] for name in passes}
    cpu = {name: [] for name in passes}
    for round_ in range(args.rounds + 1):
        for name, one in passes.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            # The first only warms up.
            one(round_ * n_rows, n_rows if round_ else min(n_rows, 2 * args.batch_rows))
            if round_:
                speeds[name].append(n_rows * stream.n_ctx / (time.perf_counter() - began))
                cpu[name].append(n_rows * stream.n_ctx / (time.process_time() - began_cpu))
    medians, of_cpu = (
        {name: statistics.median(values) for name, values in found.items()}
        for found in (speeds, cpu)
    )
    ratio = medians["survey"] / medians["bare"]
    print(
        f"{lm.name}, {len(shared.sites)} layers, {shared.d_sae:,} latents, {tokens:,} tokens a "
        f"sample, {args.rounds} samples\n"
    )
    print("| pass | tokens/s, median | of bare | tokens/CPU-s | of bare |\n|---|---|---|---|---|")
    for name, value in medians.items():
        print(
            f"| {name} | {value:,.0f} | {value / medians['bare']:.2f} | {of_cpu[name]:,.0f} | "
            f"{of_cpu[name] / of_cpu['bare']:.2f} |"
        )
    print(f"\n{machine.describe()}", file=sys.stderr)
    figures = {
        "model": lm.name,
        "layers": len(shared.sites),
        "latents": shared.d_sae,
        "tokens": tokens,
        "tokens_per_second": speeds,
        "ratio": ratio,
        "tokens_per_cpu_second": cpu,
        "machine": machine.describe(),
    }
    least = LEAST_QUICK if args.quick else LEAST
    floors = [_command.Floor("survey over bare harvesting", ratio, least=least)]
    return _command.finish("layers", args, figures, floors)


if __name__ == "__main__":
    sys.exit(main())
