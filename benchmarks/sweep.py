"""What several SAEs on one stream cost, compared with one: the language model is paid once.

    python benchmarks/sweep.py [--tokens N] [--quick] [--check] [--json]

Trains one SAE on the embedded model's middle layer, then a sweep of two, four and eight that
differ in k and seed, each on the same tokens into a fresh folder, and prints seconds of the
whole job, loading apart, and their ratio to one. Batches are those of a long run (2,048 tokens),
where the language model takes most of the time; with the 256 of so short a run the optimiser's
steps do (`--batch-tokens 256`).

`--check`: four cost at most 1.5 times one. `--quick --check`: the model reads at most 1.5 times the
tokens for four that it reads for one; a sweep that ran it for each SAE would read 4 times as many.
Times of so short a run depend on what else the machine does.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import _command

from saekit.core import machine

MOST = 1.5  # times one, for four


def main():
    parser = _command.parser_of(__doc__, "8,000 tokens")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--d-sae", type=int, default=4096)
    args = parser.parse_args()
    machine.prepare()

    from saekit.data.open import open_corpus
    from saekit.models.hf import load
    from saekit.training.building import as_run
    from saekit.training.loop import train
    from saekit.training.sweep_loop import sweep_runs

    tokens = 8_000 if args.quick else args.tokens
    lm = load("smollm2-135m")
    raw = {
        "model": "smollm2-135m",
        "pair": {"read": ["L15.resid_post"]},
        "tokens": tokens,
        "batch_tokens": args.batch_tokens,
        "corpus": open_corpus("packaged").to_dict(),
        "sae": {"name": "topk", "d_sae": args.d_sae},
    }
    base = as_run(raw, lm, [])
    runs = {
        f"k{k}-seed{seed}": dataclasses.replace(
            base, seed=seed, sae=dataclasses.replace(base.sae, k=k)
        )
        for seed in (0, 1)
        for k in (16, 32, 64, 128)
    }
    rows, read, seen = {}, {}, [0]  # seconds and tokens by number of SAEs; tokens of this one

    def count(_module, args, _output):
        seen[0] += args[0].numel()

    lm.module.get_input_embeddings().register_forward_hook(count)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        train(dataclasses.replace(base, tokens=4_000), lm, out / "warm", shown=False)
        for n in (1, 2, 4, 8):
            some = dict(list(runs.items())[:n])
            began, seen[0] = time.perf_counter(), 0
            if n == 1:
                train(runs["k16-seed0"], lm, out / "one", shown=False)
            else:
                assert not sweep_runs(some, lm, out / str(n), shown=False)
            rows[n], read[n] = time.perf_counter() - began, seen[0]
    record = {
        "tokens": tokens,
        "batch_tokens": args.batch_tokens,
        "d_sae": args.d_sae,
        "seconds": rows,
        "times_one": {n: s / rows[1] for n, s in rows.items()},
        "tokens_read": read,
    }
    print("| SAEs | seconds | times one | one after another would be | tokens the model read |")
    print("|---|---|---|---|---|")
    for n, s in rows.items():
        print(f"| {n} | {s:.1f} | {s / rows[1]:.2f} | {n:.2f} | {read[n]:,} |")
    floors = [_command.Floor("tokens read for four, times one", read[4] / read[1], most=MOST)]
    if not args.quick:
        floors.append(_command.Floor("four SAEs, times one", rows[4] / rows[1], most=MOST))
    return _command.finish("sweep", args, record, floors)


if __name__ == "__main__":
    sys.exit(main())
