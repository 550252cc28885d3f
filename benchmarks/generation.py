"""A model's own text: `lm.sequences` and transformers' own batched `generate`, side by side.

    python benchmarks/generation.py [--rows N] [--new N] [--quick] [--check] [--json]

The embedded model in float32 on two threads, from BOS, temperature 1, nothing cut off. Equal
lengths: a batch of rows that all get the same number of tokens. Unlike lengths: three times as
many sequences that end at a full stop (about one token in 25) or at three times that number;
transformers runs them in batches, each until its longest has ended, and saekit puts the next
sequence in the place of one that ended. Tokens are those of sequences, without padding.
transformers runs on its own modules, without saekit's products.

`--quick --check`: every entry runs, and sequences are the same in batches of 3 and of 8.

What would mislead: shorter sequences make the first pass, and what drawing costs, a larger share.
"""

import sys
from pathlib import Path

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Entry, Job


class Setting:
    """Model and lengths of an entry."""

    def __init__(self, spec, *, varied):
        import saekit

        self.lm = saekit.load_model("smollm2-135m", dtype="float32")
        self.bos = self.lm.tokenizer.bos_id
        stop = self.lm.tokenizer.encode(".")[0][-1]
        self.stop = [stop, self.lm.tokenizer.eos_id] if varied else []
        self.rows = spec["rows"]
        self.n = spec["new"] * (3 if varied else 1)
        self.sequences = self.rows * (3 if varied else 1)


def _saekit(spec, *, varied):
    from saekit.models.generation import Sampling

    s = Setting(spec, varied=varied)

    def step(rows=s.rows):
        prompts = ((i, [s.bos]) for i in range(s.sequences))
        return dict(s.lm.sequences(prompts, s.n, Sampling(seed=0), stop=s.stop, batch_rows=rows))

    found = step()
    tokens = sum(map(len, found.values()))
    same = spec["quick"] and step(3) == step(8)
    return Job(step, tokens, lambda: {"same": float(same)})


def _transformers(spec, *, varied):
    from saekit.models.hf import copied

    s = Setting(spec, varied=varied)
    module = copied(s.lm.module).eval().requires_grad_(False)
    how = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    how |= {"max_new_tokens": s.n, "pad_token_id": s.lm.tokenizer.eos_id}
    how |= {"eos_token_id": s.stop} if varied else {"min_new_tokens": s.n}
    ids = torch.full((s.rows, 1), s.bos)

    @torch.no_grad()
    def step():
        torch.manual_seed(0)
        mask = torch.ones_like(ids)
        return [
            module.generate(ids, attention_mask=mask, **how)[:, 1:]
            for _ in range(s.sequences // s.rows)
        ]

    def lengths():
        for row in torch.cat([torch.nn.functional.pad(b, (0, s.n - b.shape[1])) for b in step()]):
            ends = [i for i, token in enumerate(row.tolist()) if token in s.stop]
            yield ends[0] + 1 if ends else s.n

    return Job(step, sum(lengths()))


def saekit_equal(spec):
    return _saekit(spec, varied=False)


def saekit_varied(spec):
    return _saekit(spec, varied=True)


def transformers_equal(spec):
    return _transformers(spec, varied=False)


def transformers_varied(spec):
    return _transformers(spec, varied=True)


MAKERS = {
    f.__name__: f for f in (saekit_equal, transformers_equal, saekit_varied, transformers_varied)
}


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    parser = side.parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=16, help="sequences of a batch")
    parser.add_argument("--new", type=int, default=32, help="tokens of a sequence")
    parser.set_defaults(rounds=3, seconds=0, warm_up=0)  # a step takes seconds; making one warms up
    options = side.made_quick(parser.parse_args())
    spec = {"rows": options.rows, "new": options.new, "quick": options.quick}
    spec |= {"rows": 4, "new": 6} if options.quick else {}
    entries = [Entry(n, sys.executable) for n in MAKERS if side.wanted(n, options)]
    results = side.race(entries, Path(__file__), spec, options)
    print(f"\n{side.race_table(results, 'saekit-equal')}\n")
    found = {label.replace("-", "_"): r for label, r in results.items()}
    targets = [
        side.compared(
            f"tokens/s over transformers' generate, {kind} lengths",
            found.get(f"saekit_{name}"),
            found.get(f"transformers_{name}"),
            *ends,
        )
        for kind, name, ends in (("equal", "equal", (0.8, 1.0)), ("unlike", "varied", (1.1, 1.5)))
    ]
    failed = [label for label, r in results.items() if not side.ran(r)]
    same = [r.get("same", 0.0) for label, r in found.items() if label.startswith("saekit")]
    quick = [
        Floor("entries that failed", float(len(failed)), most=0),
        Floor("the same text at any batch", min(same, default=None), least=1),
    ]
    side.finish("generation", options, {"results": results}, targets, quick)


if __name__ == "__main__":
    main()
