"""Shuffling: how far batches are from independent draws, and how fast a cache is read.

    python benchmarks/shuffle.py [--quick] [--check] [--json] [--store FOLDER]

Inflation: real activations of SmolLM2-135M at L10.resid_post over the packaged text, tokens that
count, in batches of 2048. The mean of a batch of independent draws differs from the mean of all
by a variance of trace(covariance) / batch; here is how many times that it does, corrected for
drawing without replacement from a finite set: 1 is a uniform order. Tokens of a document are
alike, and so are documents of a set: an order that keeps them together gives more. The interval
is two standard errors over batches of all seeds.

Reading: batches of 2048 taken from each stream by a consumer that does nothing else, in rows a
second. "first" is with checksums, "warm" from the page cache, "cold" after the kernel was asked
to forget the files. Training: steps of a TopK SAE on the resident shuffle and on the store, round
about, in one process.

`--quick --check`: a full shuffle inflates at most half as much as the order of the text does, and
the cache serves rows at 1,000 a second or more.

What would mislead: the set is small (128 batches by default), so a buffer of 64 batches is half
of it; text of more kinds in longer stretches inflates more. Cold reads depend on the disk.
"""

import itertools
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Target

from saekit.activations.cache.caching import Caching, write
from saekit.activations.cache.full_shuffle import FullShuffle
from saekit.activations.cache.precision import Channels
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.cache.store import MANIFEST, Store, begin
from saekit.activations.cache.store_writer import StoreWriter
from saekit.activations.mixing import Mixing
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.activations.shuffle import Resident, Rolling

MODEL, SITE, BATCH = "smollm2-135m", "L10.resid_post", 2048
TOKENS = {False: 2**18, True: 2**14}  # by --quick
SEEDS = {False: (0, 1, 2), True: (0,)}
STEP_SECONDS = 40  # of the comparison of training, at most
FULL = ("full", 64, 64)  # the default of a run, in a window of 64 batches


def orders():
    """Return the streams that are compared: label, kind, and its settings in batches."""
    yield "text order", ("mixing", 1, 0.0)
    yield "SAELens' default size (2,560 tokens), mixing 0.5", ("mixing", 1.25, 0.5)
    for batches in (4, 16, 64):
        yield f"rolling, buffer of {batches} batches", ("rolling", batches)
    for batches, share in ((4, 0.5), (16, 0.25), (16, 0.5), (16, 0.9), (64, 0.5)):
        yield f"mixing {share}, buffer of {batches} batches", ("mixing", batches, share)
    for block, batches in ((256, 4), (256, 16), (64, 4), (64, 16), FULL[1:]):
        yield f"full, blocks of {block}, window of {batches} batches", ("full", block, batches)
    yield "full, in memory (uniform)", ("resident",)


def stream_of(harvest, how, tokens, seed, epochs=1):
    common = {"tokens": tokens, "epochs": epochs, "batch_tokens": BATCH, "seed": seed}
    kind, *rest = how
    if kind == "rolling":
        return Rolling(harvest, buffer_tokens=rest[0] * BATCH, **common)
    if kind == "mixing":
        buffer_tokens = int(rest[0] * BATCH)
        return Mixing(harvest, buffer_tokens=buffer_tokens, mixing=rest[1], **common)
    if kind == "full":
        window = rest[1] * BATCH
        return FullShuffle(harvest, block_tokens=rest[0], window_tokens=window, **common)
    return Resident(harvest, shown=False, **common)


def batches(stream):
    while stream.served_tokens < stream.total_tokens:
        yield stream.batch()[0]


def harvest_of(store):
    return RecordedModel(store).harvest(Pair(read=(SITE,)), TokenRule(), {})


# Inflation


def inflation(store, tokens, seeds):
    """Return mean and two standard errors of the inflation, by label."""
    total, square = torch.zeros(store.sites[harvest_of(store).pair.reads[0]]).double(), 0.0
    for x in batches(stream_of(harvest_of(store), ("resident",), tokens, 0)):
        total += x.double().sum(0)
        square += float(x.double().square().sum())
    mean = total / tokens
    variance = square / tokens - float(mean.square().sum())
    expected = variance / BATCH * (tokens - BATCH) / (tokens - 1)
    out = {}
    for label, how in orders():
        if how[0] == "mixing" and how[1] * BATCH > tokens:
            continue  # it would never be full, and never shuffled
        each = []
        for seed in seeds if how[0] != "mixing" or how[2] else seeds[:1]:
            stream = stream_of(harvest_of(store), how, tokens, seed)
            each += [
                float((x.double().mean(0) - mean).square().sum()) / expected
                for x in batches(stream)
                if len(x) == BATCH
            ]
        error = 2 * statistics.stdev(each) / math.sqrt(len(each))
        out[label] = {"inflation": statistics.fmean(each), "within": error, "batches": len(each)}
        print(f"{label}: {out[label]['inflation']:.2f}", flush=True)
    return out


# Reading


def copied(store, folder, precision):
    """Return the same activations in another precision."""
    site = next(iter(store.sites))
    channels = {site: Channels.of(store.acts(site, 0, 64).flatten(0, 1).float())}
    config = store.manifest["config"] | {"precision": precision}
    begin(folder, channels if precision == "int8w" else {}, store.manifest | {"config": config})
    writer = StoreWriter(Store.open(folder), channels)
    for row in range(0, store.n_rows, store.batch_rows):
        rows = store.text(row, store.batch_rows)
        writer.add(rows, {site: store.acts(site, row, store.batch_rows)}, 0)
    writer.flush()
    return Store.open(folder)


def rate(stream, tokens):
    """Return rows a second of the next epoch."""
    began = time.perf_counter()
    for _ in range(tokens // BATCH):
        stream.batch()
    return tokens / (time.perf_counter() - began)


def forget(store):
    """Ask the kernel to drop the files of a store from memory."""
    for record in store.records:
        file = os.open(store.folder / record.file, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def reading(store, folder, tokens):
    """Return rows a second by stream and state."""
    window = min(64, tokens // BATCH // 2)
    out = {}
    resident = stream_of(harvest_of(store), ("resident",), tokens, 0, epochs=4)
    out["resident, bfloat16"] = {"warm": max(rate(resident, tokens) for _ in range(3))}
    rolling = stream_of(harvest_of(store), ("rolling", window), tokens, 0, epochs=4)
    out["rolling, from the cache"] = {
        "first": rate(rolling, tokens),
        "warm": max(rate(rolling, tokens) for _ in range(2)),
    }
    for precision in ("float32", "bfloat16", "float8", "int8w"):
        there = copied(store, Path(folder) / precision, precision)
        opened = Store.open(there.folder)
        stream = stream_of(harvest_of(opened), ("full", 64, window), tokens, 0, epochs=4)
        found = {"first": rate(stream, tokens), "warm": rate(stream, tokens)}
        found["warm"] = max(found["warm"], rate(stream, tokens))
        forget(there)
        cold = Store.open(there.folder)
        stream = stream_of(harvest_of(cold), ("full", 64, window), tokens, 0)
        found["cold"] = rate(stream, tokens)  # with checksums: they are the first to read
        width = next(iter(there.sites.values()))
        item = {"float32": 4, "bfloat16": 2}.get(precision, 1)
        out[f"full, {precision}"] = found | {"gb_per_second": found["warm"] * width * item / 1e9}
        for record in there.records:
            (there.folder / record.file).unlink()
        print(f"full, {precision}: {found['warm']:,.0f} rows/s", flush=True)
    return out


def training(store, tokens, steps):
    """Return seconds a step on the resident shuffle and on the store, interleaved."""
    from saekit.saes.topk import TopK
    from saekit.training.fit import Fit
    from saekit.training.trainer import Training

    width = next(iter(store.sites.values()))
    sae = TopK(d_in=width, d_out=width, d_sae=8 * width, k=32)
    fit = Fit(sae=sae, tokens=tokens, epochs=100, batch_tokens=BATCH)
    window = min(64, tokens // BATCH // 2)
    runs = {
        name: Training(fit, stream_of(harvest_of(store), how, tokens, 0, epochs=100))
        for name, how in (("resident", ("resident",)), ("full", ("full", 64, window)))
    }
    took = {name: [] for name in runs}
    began = time.perf_counter()
    for i in itertools.count():
        for name in (list(runs), list(runs)[::-1])[i % 2]:
            start = time.perf_counter()
            x, _ = runs[name].stream.batch()
            x = (x - x.mean(0)) / x.std()
            runs[name].step(x, x)
            took[name].append(time.perf_counter() - start)
        if i >= steps or time.perf_counter() - began > STEP_SECONDS:
            break
    # Means, not medians: a window that is waited for makes one long step.
    return {name: statistics.fmean(each[1:]) for name, each in took.items()}


# The report


def tables(found, speeds, steps):
    lines = ["| order | inflation (two standard errors) |", "| --- | --- |"]
    for label, r in found.items():
        lines.append(f"| {label} | {r['inflation']:.2f} ({r['within']:.2f}) |")
    head = "stream | rows/s, first | warm | cold | GB/s, warm"
    lines += ["", f"| {head} |", "|" + " --- |" * 5]
    for label, r in speeds.items():
        cells = [f"{r[k]:,.0f}" if k in r else "" for k in ("first", "warm", "cold")]
        cells.append(f"{r['gb_per_second']:.2f}" if "gb_per_second" in r else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", "| training on | ms a step |", "| --- | --- |"]
    lines += [f"| {name} | {1e3 * s:.1f} |" for name, s in steps.items()]
    return "\n".join(lines)


def opened(folder, tokens):
    """Return the store that is read, written where it is not there."""
    from saekit.data.corpora.packaged import Packaged
    from saekit.models.hf import load

    if (folder / MANIFEST).exists() and Store.open(folder).n_kept >= tokens:
        return Store.open(folder)
    caching = Caching(model=MODEL, sites=(SITE,), corpus=Packaged())
    return write(caching, load(MODEL, check=False), folder, tokens=tokens)


def main():
    parser = side.parser_of(__doc__)
    parser.add_argument("--store", type=Path, default=None, help="cache to use, or to make")
    options = side.made_quick(parser.parse_args())
    torch.set_num_threads(options.threads)
    tokens = TOKENS[options.quick]
    with tempfile.TemporaryDirectory() as folder:
        store = opened(options.store or Path(folder) / "store", tokens)
        found = inflation(store, tokens, SEEDS[options.quick])
        speeds = reading(store, folder, tokens)
        steps = training(store, tokens, 4 if options.quick else 300)
    print(f"\n{tables(found, speeds, steps)}\n")
    full = f"full, blocks of {FULL[1]}, window of {FULL[2]} batches"
    targets = [
        Target("inflation: full shuffle", found[full]["inflation"], 1.15, 1.05, most=True),
        Target(
            "inflation: rolling, 64 batches",
            found["rolling, buffer of 64 batches"]["inflation"],
            1.5,
            1.15,
            most=True,
        ),
        Target(
            "reading: thousand rows/s, bfloat16, warm",
            speeds["full, bfloat16"]["warm"] / 1e3,
            200,
            500,
        ),
        Target(
            "training on the store against resident, speed",
            steps["resident"] / steps["full"],
            0.95,
            0.99,
        ),
    ]
    figures = {"tokens": tokens, "inflation": found, "reading": speeds, "step_seconds": steps}
    share = found[full]["inflation"] / found["text order"]["inflation"]
    floors = [
        Floor("inflation: full shuffle over text order", share, most=0.5),
        Floor("reading: rows/s, bfloat16, warm", speeds["full, bfloat16"]["warm"], least=1000),
    ]
    side.finish("shuffle", options, figures, targets, floors)


if __name__ == "__main__":
    main()
