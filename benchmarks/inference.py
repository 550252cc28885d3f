"""Encoding and decoding with a finished SAE, in tokens a second, beside the peers' classes.

    python benchmarks/inference.py --peer-python PYTHON [--quick] [--check] [--json]
                                   [--cases topk_encode jumprelu_both]

576 wide, 9216 latents, k 32 or thresholds with 64 latents a token on, 4096 tokens a call, the
synthetic activations of train_step.py, no gradients. Each case is raced with peers as they come,
and with their allocator told to keep memory.

`--quick --check`: every entry whose library is there runs, and saekit's L0 is what was set.

What would mislead: what is returned differs. saekit gives sparse codes, sparsify values and
indices (and the dense pre-activations), sae-lens and dictionary_learning a dense array of
151 MB a call, which in the untuned race is mapped anew each time. Whoever needs the dense array
should add the making of it to saekit's figure. Weights are random, so latents are used evenly.
"""

import itertools
import sys
import tempfile

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Entry, Job
from train_step import BATCHES, MID, SMALL, Setting, data_for, on_each

CASES = {
    f"{arch}_{what}": MID | {"arch": arch, "what": what} | ({"l0": 64} if arch != "topk" else {})
    for arch in ("topk", "jumprelu")
    for what in ("encode", "both")
}
ENCODE = (2.2, 5)  # floor and goal against the fastest peer


def job_of(s, spec, encode, decode, l0):
    """Return the timed part of a case; `encode` gives what `decode` takes."""

    @torch.no_grad()
    def step():
        acts = encode(next(s.data))
        return decode(acts) if spec["what"] == "both" else acts

    return Job(step, s.batch, torch.no_grad()(lambda: {"l0": float(l0(encode(s.x)))}))


def saekit(spec):
    from saekit.saes.base import SAEConfig

    s = Setting(spec)
    raw = {"name": s.arch, "d_in": s.d, "d_out": s.d, "d_sae": s.n}
    raw |= {"k": s.k} if s.arch == "topk" else {}
    sae = SAEConfig.from_dict(raw).build(torch.Generator().manual_seed(0))
    s.fire(lambda x: x @ sae.W_enc + sae.b_enc, sae.b_enc.data, getattr(sae, "threshold", None))
    return job_of(s, spec, sae.encode, sae.decode, lambda a: (a.values != 0).sum() / a.n_rows)


def sae_lens(spec):
    from sae_lens import saes

    s = Setting(spec)
    if s.arch == "topk":
        sae = saes.TopKSAE(saes.TopKSAEConfig(d_in=s.d, d_sae=s.n, k=s.k))
    else:
        sae = saes.JumpReLUSAE(saes.JumpReLUSAEConfig(d_in=s.d, d_sae=s.n))
        s.fire(
            lambda x: sae.process_sae_in(x) @ sae.W_enc + sae.b_enc,
            sae.b_enc.data,
            sae.threshold.data,
        )
    sae.eval()
    return job_of(s, spec, sae.encode, sae.decode, on_each)


def dictionary_learning(spec):
    from dictionary_learning.dictionary import JumpReluAutoEncoder
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    s = Setting(spec)
    if s.arch == "topk":
        ae = AutoEncoderTopK(s.d, s.n, s.k)
    else:
        ae = JumpReluAutoEncoder(s.d, s.n)
        s.fire(lambda x: x @ ae.W_enc + ae.b_enc, ae.b_enc.data, ae.threshold.data)
    return job_of(s, spec, ae.encode, ae.decode, on_each)


def sparsify(spec):
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    s = Setting(spec)
    cfg = SparseCoderConfig(num_latents=s.n, k=s.k)
    coder = SparseCoder(s.d, cfg, dtype=torch.float32)

    def decode(found):
        return coder.decode(found.top_acts, found.top_indices)

    return job_of(s, spec, coder.encode, decode, lambda found: on_each(found.top_acts))


MAKERS = {f.__name__: f for f in (saekit, sae_lens, dictionary_learning, sparsify)}


def entries_of(arch, tuned, options):
    names = [n for n in MAKERS if side.wanted(n, options) and (n != "sparsify" or arch == "topk")]
    return [Entry(n, side.python_of(n, options), tuned=tuned and n != "saekit") for n in names]


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    parser = side.parser_of(__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = side.made_quick(parser.parse_args())
    results, targets, floors = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        for case, tuned in itertools.product(options.cases, (False, True)):
            spec = CASES[case] | (SMALL if options.quick else {})
            if options.quick and "l0" in spec:
                spec["l0"] = 16
            spec["data"] = data_for(spec["d"], BATCHES * spec["batch"], folder)
            entries = entries_of(spec["arch"], tuned, options)
            found = side.race(entries, __file__, spec, options)
            results[f"{case}{' tuned' if tuned else ''}"] = found
            floors.append(side.all_ran(found, options))
            if side.ran(found.get("saekit")):
                share = found["saekit"]["l0"] / spec.get("l0", spec["k"])
                floors.append(Floor(f"{case}: L0 over what was set", share, least=0.8, most=1.2))
            print(f"\n### {case}{', allocator tuned' if tuned else ''}\n")
            print(side.race_table(found, "saekit"), flush=True)
            if spec["what"] == "encode" and not tuned:
                best = side.fastest(found, [k for k in found if k != "saekit"])
                name = f"{case} vs the best peer"
                targets.append(side.compared(name, found.get("saekit"), best, *ENCODE))
    side.finish("inference", options, {"cases": results}, targets, floors)


if __name__ == "__main__":
    main()
