"""How many latents a product in fewer bits leaves undecided, by the proof and in fact.

    python benchmarks/screening.py RUN [--quick] [--check] [--json] [--tokens 2048]

RUN is a run of `saekit train` with k. Held-out activations of its site are multiplied with its
encoder in float32, and with both rounded to bfloat16 and to float8 (e4m3, a scale a row). The
bound on what rounding does to a score is that of `saekit.kernels.choose`; a latent is undecided
where its score, by that bound, may be among the k largest. Next to it, how many of the k largest
in float32 are among the 1, 2 and 4 k largest in fewer bits: what a screen without a proof keeps.

`--check`, with `--quick` too: in bfloat16 the 2 k largest hold 0.999 of the k largest, and the
bound leaves fewer than a fifth of the latents undecided.

What would mislead: a recall of 1 on so many tokens is no proof; products are made in float32 from
rounded numbers, so this says what is lost, not how long it takes.
"""

import sys
from pathlib import Path

import _command
import torch
from _command import Floor

from saekit.activations.harvest import Harvest
from saekit.data.tokenise import TokenStream
from saekit.hub import native
from saekit.models.hf import load
from saekit.training import record
from saekit.training.run import Run

LARGEST_FLOAT8 = 448.0


def rounded(rows, kind):
    """Return rows as they are in fewer bits."""
    if kind == "bfloat16":
        return rows.bfloat16().float()
    scale = rows.abs().amax(-1, keepdim=True) / LARGEST_FLOAT8
    return (rows / scale).to(torch.float8_e4m3fn).float() * scale


def held_out(run, tokens):
    """Return held-out activations of a run's site."""
    model = load(run.model, dtype="float32", check=False)
    stream = TokenStream(run.corpus, "test", model.tokenizer, n_ctx=run.n_ctx)
    found = []
    for acts in Harvest(model, stream, run.pair, run.rule).batches():
        found.append(acts.x.float())
        if sum(map(len, found)) >= tokens:
            break
    return torch.cat(found)[:tokens]


def screened(x, W, b, k, kind):
    """Return a record of the table's row."""
    low_x, low_W = rounded(x, kind), rounded(W, kind)
    exact, scores = x @ W.t() + b, low_x @ low_W.t() + b
    bound = (x - low_x).norm(dim=-1) * low_W.norm(dim=-1).max()
    bound += x.norm(dim=-1) * (W - low_W).norm(dim=-1).max()
    least = scores.topk(k, dim=-1).values[:, -1] - 2 * bound
    undecided = (scores >= least[:, None]).sum(-1).float()
    wanted = exact.topk(k, dim=-1).indices
    kept = {}
    for wide in (k, 2 * k, 4 * k):
        near = scores.topk(wide, dim=-1).indices
        among = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, near, True)
        kept[wide // k] = float(among.gather(1, wanted).float().mean())
    return {
        "numbers": kind,
        "latents": len(b),
        "undecided": float(undecided.mean()),
        "undecided_most": float(undecided.max()),
        "kept": kept,
        "error": float((scores - exact).abs().mean() / exact.std()),
    }


def line(r):
    """Return a row of the table."""
    cells = [r["numbers"], f"{r['undecided']:,.0f} of {r['latents']:,}"]
    cells += [f"{r['undecided_most']:,.0f}", *(f"{v:.5f}" for v in r["kept"].values())]
    return " | ".join([*cells, f"{r['error']:.4f}"])


def main():
    parser = _command.parser_of(__doc__, "256 tokens")
    parser.add_argument("run", type=Path, help="of `saekit train`, with k")
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    if options.quick:
        options.tokens = 256
    run = Run.from_dict(record.read(options.run / "run.json").settings)
    sae = native.load(options.run).sae
    x = held_out(run, options.tokens)
    W, b = sae.W_enc.detach().t().contiguous(), sae.b_enc.detach()
    head = ["numbers", "undecided, mean", "most", "of the k largest in k", "in 2 k", "in 4 k"]
    head.append("mean error / standard deviation of scores")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    rows = [screened(x, W, b, run.sae.k, kind) for kind in ("bfloat16", "float8")]
    for row in rows:
        print(f"| {line(row)} |")
    share = rows[0]["undecided"] / rows[0]["latents"]
    floors = [
        Floor("bfloat16: of the k largest in 2 k", rows[0]["kept"][2], least=0.999),
        Floor("bfloat16: share undecided", share, most=0.2),
    ]
    return _command.finish("screening", options, {"rows": rows}, floors)


if __name__ == "__main__":
    sys.exit(main())
