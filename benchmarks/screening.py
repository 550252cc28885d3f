"""How many latents a product in fewer bits leaves undecided, by the proof and in fact.

    python benchmarks/screening.py RUN [--tokens 2048]

RUN is a run of `saekit train` with k. Held-out activations of its site are multiplied with its
encoder in float32, and with both rounded to bfloat16 and to float8 (e4m3, a scale a row). The
bound on what rounding does to a score is that of `saekit.kernels.choose`; a latent is undecided
where its score, by that bound, may be among the k largest. Beside it, how many of the k largest
in float32 are among the 1, 2 and 4 k largest in fewer bits: what a screen without a proof keeps.

What would mislead: a recall of 1 on so many tokens is no proof; products are made in float32 from
rounded numbers, so this says what is lost, not how long it takes.
"""

import argparse
from pathlib import Path

import torch

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
    """Return a row of the table."""
    low_x, low_W = rounded(x, kind), rounded(W, kind)
    exact, scores = x @ W.t() + b, low_x @ low_W.t() + b
    bound = (x - low_x).norm(dim=-1) * low_W.norm(dim=-1).max()
    bound += x.norm(dim=-1) * (W - low_W).norm(dim=-1).max()
    least = scores.topk(k, dim=-1).values[:, -1] - 2 * bound
    undecided = (scores >= least[:, None]).sum(-1).float()
    wanted = exact.topk(k, dim=-1).indices
    kept = []
    for wide in (k, 2 * k, 4 * k):
        near = scores.topk(wide, dim=-1).indices
        among = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, near, True)
        kept.append(f"{among.gather(1, wanted).float().mean():.5f}")
    error = (scores - exact).abs().mean()
    cells = [kind, f"{undecided.mean():,.0f} of {len(b):,}", f"{undecided.max():,.0f}", *kept]
    return [*cells, f"{error / exact.std():.4f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    run = Run.from_dict(record.read(options.run / "run.json").settings)
    sae = native.load(options.run).sae
    x = held_out(run, options.tokens)
    W, b = sae.W_enc.detach().t().contiguous(), sae.b_enc.detach()
    head = ["numbers", "undecided, mean", "most", "of the k largest in k", "in 2 k", "in 4 k"]
    head.append("mean error / standard deviation of scores")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for kind in ("bfloat16", "float8"):
        print("| " + " | ".join(screened(x, W, b, run.sae.k, kind)) + " |")


if __name__ == "__main__":
    main()
