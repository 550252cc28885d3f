"""Sensitivity: how fast texts are scored and examples are found.

    python benchmarks/sensitivity.py [--quick] [--check] [--json] [--parts scoring examples]

scoring   The published scoring, stated again here in our words (`published`), beside saekit's, in
          turn on the same texts with the same weights: texts go through the whole model, on
          transformers' own modules without saekit's products, four at a time in the order of the
          table, the shorter padded at their end; every position is encoded in full width, and one
          column of it is read. saekit stops at the site, puts texts of one
          length together, and keeps the columns that are asked for: those of all latents on all
          texts, so it gives more.
examples  `collect` of 1,000 latents beside `saekit.index` on the same text, with the same rows a
          pass. What is kept of text is counted at half and at the end: it is bounded by latents
          and examples, not by tokens.

The embedded model at L10 of 30, a TopK SAE of 4,096 latents with random weights, k 32. Texts are 21
to 40 tokens of the packaged text. `--check`: at least 5 times the published scoring; at least 0.7
of the tokens per second of an index; both ways agree on which texts fire. `--quick --check`: a tiny
model, loose floors.

What would mislead: a site late in a model, where stopping saves nothing; texts that are all of one
length, where the published way pads nothing.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import _command
import torch
from explorer import random_sae, rows_of

import saekit
from saekit.core import machine
from saekit.models.hf import copied
from saekit.models.tiny import tiny
from saekit.studies.sensitivity import study
from saekit.studies.sensitivity.scoring import largest_acts
from saekit.studies.sensitivity.study import Sensitivity, collect

PARTS = ("scoring", "examples")
FULL = {"latents": 16, "texts": 25, "rounds": 2, "tokens": 60_000, "wanted": 1000, "d_sae": 4096}
QUICK = {"latents": 4, "texts": 25, "rounds": 2, "tokens": 20_000, "wanted": 50, "d_sae": 256}
FLOORS = {"scoring over published": (5, 1), "examples over index": (0.7, 0.2)}
PUBLISHED_BATCH = 4
AGREE = 0.98  # of texts, on whether they fire: passes of other shapes round differently


def setting(quick, folder):
    lm = tiny() if quick else saekit.load_model("smollm2-135m")
    sizes = QUICK if quick else FULL
    stream = rows_of(lm, 128, packaged=not quick)
    site = "L0.resid_post" if quick else "L10.resid_post"
    return lm, stream, random_sae(lm, stream, [site], sizes["d_sae"], folder / "sae"), sizes


def texts_of(stream, n, special):
    """Return texts of 21 to 40 tokens without special ones."""
    draw, found = torch.Generator().manual_seed(0), []
    for rows in stream.rows(64):
        for row in rows.tokens:
            length = int(torch.randint(21, 41, (1,), generator=draw))
            text = row[8 : 8 + length].tolist()
            if not special & set(text):
                found.append(text)
            if len(found) == n:
                return found
    raise RuntimeError("the text is too short")


@torch.no_grad()
def published(module, lm, loaded, texts, latent_of):
    """Return the largest activation of each text's own latent, in the published way."""
    site, bos = loaded.site, loaded.card.bos_id(lm.tokenizer)
    block = module.get_decoder().layers[site.layer]
    kept, found = {}, []
    handle = block.register_forward_hook(
        lambda _m, _a, out: kept.update(x=out[0] if isinstance(out, tuple) else out)
    )
    for first in range(0, len(texts), PUBLISHED_BATCH):
        some = [[bos, *ids] for ids in texts[first : first + PUBLISHED_BATCH]]
        width = max(map(len, some))
        tokens = torch.tensor([[*ids, *([bos] * (width - len(ids)))] for ids in some])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in some])
        module(input_ids=tokens, attention_mask=mask, use_cache=False)
        acts = loaded.sae.encode(kept["x"].float()).dense().cpu()
        acts = acts.view(len(some), width, -1) * (tokens != bos)[..., None]
        for i, own in enumerate(acts):
            found.append(float(own[:, latent_of[first + i]].max()))
    handle.remove()
    return torch.tensor(found)


def scoring_part(lm, stream, loaded, sizes):
    n = sizes["latents"] * sizes["texts"]
    texts = texts_of(stream, n, lm.tokenizer.special_ids)
    latents = list(range(sizes["latents"]))
    # Those that are on most often, so that there is something to agree on.
    acts = largest_acts(loaded, lm, texts[:64], list(range(loaded.d_sae)))
    latents = acts.gt(0).sum(0).argsort(descending=True)[: sizes["latents"]].tolist()
    column = [i // sizes["texts"] for i in range(n)]
    latent_of = [latents[i] for i in column]
    seconds, found = {"published": [], "saekit": []}, {}
    module = copied(lm.module).eval().requires_grad_(False)
    ways = {
        "published": lambda: published(module, lm, loaded, texts, latent_of),
        "saekit": lambda: largest_acts(loaded, lm, texts, latents)[range(n), column],
    }
    published(module, lm, loaded, texts[:8], latent_of)  # warms up
    for _ in range(sizes["rounds"]):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    both = (found["published"] > 1e-6) == (found["saekit"] > 1e-6)
    return {
        "texts": n,
        "texts that fire": float((found["saekit"] > 1e-6).float().mean()),
        "seconds": seconds,
        "agree": float(both.float().mean()),
        "scoring over published": middle["published"] / middle["saekit"],
    }


def examples_part(lm, stream, loaded, sizes, folder):
    wanted = list(range(sizes["wanted"]))
    cfg = Sensitivity(n_latents=len(wanted), tokens=sizes["tokens"])
    kept = []

    class Watched(study.Collector):
        """Counts what it keeps after each batch."""

        def add(self, *args):
            super().add(*args)
            n = sum(len(r[0]) + 3 * len(r[2]) for r in self._rows.values())
            kept.append((self.n_tokens, n))

    plain, study.Collector = study.Collector, Watched
    began = time.perf_counter()
    text = (stream.corpus, "train")
    found = collect(loaded, lm, cfg, text, wanted, shown=False)
    seconds = time.perf_counter() - began
    study.Collector = plain
    began = time.perf_counter()
    made = saekit.index(folder / "sae", lm, tokens=sizes["tokens"], shown=False)
    index = time.perf_counter() - began
    half = next(n for at, n in kept if at >= kept[-1][0] / 2)
    speeds = {"examples": found.n_tokens / seconds, "index": made.n_tokens / index}
    return {
        "latents with examples": len(found.latents),
        "tokens per second": speeds,
        "numbers kept at half": half,
        "numbers kept at the end": kept[-1][1],
        "examples over index": speeds["examples"] / speeds["index"],
    }


def main():
    parser = _command.parser_of(__doc__, "a tiny model: seconds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    machine.prepare()
    figures, floors = {}, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lm, stream, loaded, sizes = setting(args.quick, folder)
        if "scoring" in args.parts:
            figures |= scoring_part(lm, stream, loaded, sizes)
            floors.append(_command.Floor("texts on which both agree", figures["agree"], AGREE))
        if "examples" in args.parts:
            figures |= examples_part(lm, stream, loaded, sizes, folder)
    for name, value in figures.items():
        print(f"{name:<26} {value}")
    print(machine.describe(), file=sys.stderr)
    for name, ends in FLOORS.items():
        if name in figures:
            floors.append(_command.Floor(name, figures[name], least=ends[args.quick]))
    return _command.finish("sensitivity", args, figures, floors)


if __name__ == "__main__":
    sys.exit(main())
