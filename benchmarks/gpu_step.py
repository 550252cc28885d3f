"""Tokens per second of an optimiser step on a GPU, beside what bounds it.

    python benchmarks/gpu_step.py [--quick] [--check] [--json]

One TopK autoencoder a row, on random activations that lie on the device. In turns, so that all
meet the same clocks, and by the median of several turns:

saekit    the whole step of `training.trainer.Training`: loss, gradients, clipping, Adam, norms
encoder   the encoder's product alone, in bfloat16: no exact dense encoder is faster; the share of
          it that saekit's step reaches is printed
dense     a step on dense arrays under bfloat16 autocast: five products, top-k, fused Adam
sparsify  the step of eai-sparsify's coder under bfloat16 autocast with fused Adam, where installed

The steps compute in what each does by default: saekit's values are float32, so its row is the
stricter one. Without a CUDA device nothing is measured, and the exit status is 2.

`--check`: saekit's step is no slower than the dense one. `--quick --check`: a quarter as fast.
"""

import statistics
import sys
import time

import _command
import torch
from _command import Floor
from torch.nn.functional import normalize

from saekit.saes.topk import TopK
from saekit.training.fit import Fit
from saekit.training.trainer import Training

SIZES = [(2304, d_sae, 64, 2**14) for d_sae in (2**14, 2**15, 2**16)]  # d_in, d_sae, k, tokens
QUICK = [(576, 9216, 32, 2**12)]
LR = 2e-4


class Held:
    """A stream that serves one batch for ever."""

    def __init__(self, x):
        self.x, self.served_tokens = x, 0

    def batch(self):
        self.served_tokens += len(self.x)
        return self.x, self.x

    def state(self):
        return {}, {}

    def load(self, tensors, values):
        pass


def saekit_step(x, d_sae, k):
    batch_tokens, d_in = x.shape
    sae = TopK(d_in=d_in, d_out=d_in, d_sae=d_sae, k=k)
    # So long a run that no latent is dead while time is taken: the auxiliary loss is off in all.
    run = Fit(sae=sae, tokens=10**9, batch_tokens=batch_tokens, lr=LR)
    stream = Held(x)
    training = Training(run, stream, x.device)
    return lambda: training.step(*stream.batch())


def encoder_product(x, d_sae, _k):
    low = x.bfloat16()
    weight = torch.randn(d_sae, x.shape[1], device=x.device, dtype=torch.bfloat16)
    out = torch.empty(len(x), d_sae, device=x.device, dtype=torch.bfloat16)
    return lambda: torch.mm(low, weight.t(), out=out)


def dense_step(x, d_sae, k):
    d_in = x.shape[1]
    W_dec = normalize(torch.randn(d_sae, d_in, device=x.device), dim=-1)
    W_enc = W_dec.clone()
    biases = [torch.zeros(d_sae, device=x.device), torch.zeros(d_in, device=x.device)]
    weights = [W_enc, W_dec, *biases]
    for weight in weights:
        weight.requires_grad_()
    adam = torch.optim.Adam(weights, lr=LR, fused=True)

    def step():
        with torch.autocast(x.device.type, torch.bfloat16):
            pre = torch.nn.functional.linear(x, W_enc, biases[0])
            top = torch.topk(pre, k, dim=-1, sorted=False)
            acts = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
            loss = (acts @ W_dec + biases[1] - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def sparsify_step(x, d_sae, k):
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=d_sae, k=k), device=x.device)
    adam = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)

    def step():
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = coder(x).fvu
        adam.zero_grad()
        loss.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        coder.set_decoder_norm_to_unit_norm()

    return step


PARTS = {
    "saekit": saekit_step,
    "encoder": encoder_product,
    "dense": dense_step,
    "sparsify": sparsify_step,
}


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(job, steps, device):
    """Return the seconds of a step, over several without a wait between them."""
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        job()
    wait(device)
    return (time.perf_counter() - began) / steps


def measure(size, device, turns, steps):
    """Return tokens/s of each part at one size; None where it is not installed or fails."""
    d_in, d_sae, k, tokens = size
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, d_in, generator=g).to(device)
    jobs, notes = {}, {}
    for name, make in PARTS.items():
        try:
            job = make(x, d_sae, k)
            seconds_of(job, 3, device)  # compiles kernels, makes the optimiser's state
            jobs[name] = job
        except Exception as error:  # what is missing or fails must not lose the rest
            notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    taken = {name: [] for name in jobs}
    for _ in range(turns):
        for name, job in jobs.items():
            taken[name].append(seconds_of(job, steps, device))
    speeds = {name: tokens / statistics.median(t) for name, t in taken.items()}
    record = {"d_in": d_in, "d_sae": d_sae, "k": k, "batch_tokens": tokens, "notes": notes}
    return record | {"tokens_per_second": speeds, "seconds": taken}


def table(rows):
    names = "d_in | d_sae | k | batch | saekit tok/s | encoder bf16 | share | dense | sparsify"
    lines = [f"| {names} |", "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        speeds = row["tokens_per_second"]
        cells = [f"{speeds[n]:,.0f}" if n in speeds else "-" for n in PARTS]
        share = "-"
        if "saekit" in speeds and "encoder" in speeds:
            share = f"{speeds['saekit'] / speeds['encoder']:.2f}"
        sizes = [row["d_in"], row["d_sae"], row["k"], row["batch_tokens"]]
        lines.append("| " + " | ".join(map(str, [*sizes, *cells[:2], share, *cells[2:]])) + " |")
    return "\n".join(lines)


def main():
    options = _command.parser_of(__doc__, "one small size, few steps").parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        sys.exit(2)
    device = torch.device("cuda")
    turns, steps = (2, 5) if options.quick else (7, 10)
    rows = []
    for size in QUICK if options.quick else SIZES:
        rows.append(measure(size, device, turns, steps))
        for name, note in rows[-1]["notes"].items():
            print(f"{size}: {name}: {note}", file=sys.stderr)
        torch.cuda.empty_cache()
    print(torch.cuda.get_device_name(device))
    print(table(rows))
    about = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    floors = []
    for row in rows:
        speeds = row["tokens_per_second"]
        both = "saekit" in speeds and "dense" in speeds
        times = speeds["saekit"] / speeds["dense"] if both else None
        name = f"{row['d_in']} x {row['d_sae']}: saekit over dense"
        floors.append(Floor(name, times, least=0.25 if options.quick else 1.0))
    return _command.finish("gpu_step", options, {**about, "rows": rows}, floors)


if __name__ == "__main__":
    sys.exit(main())
