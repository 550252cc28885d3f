"""Published numbers that need an SAE: trained here, on the embedded model or on samples of a truth.

A recipe returns a `Found`, as those of _published.py. Each leaves its runs in `options.out` and
takes up what is there.
"""

import json
import math
from dataclasses import replace

import torch
from _command import Floor
from _published import Found

from saekit.core.result import Score
from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.means import mean_interval
from saekit.data.tokenise import TokenStream

# Pythia 70M, layers 0 to 5, windows of 64 tokens: bits of latents' influence, and of the stream's.
PYTHIA_BITS = (0.898, 1.859, 2.484, 3.163, 3.705, 4.054)
PYTHIA_STREAM = {1: 2.566, 4: 4.435}
BLOCKS = 16  # of text, for intervals


def shown(value, low=None, high=None, digits=2):
    """Return a value with its interval, where there is one."""
    if value is None or math.isnan(value):
        return ""
    if low is None or math.isnan(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def model(options, dtype="auto"):
    """Return the language model and the corpus of a recipe."""
    from saekit.models.hf import load
    from saekit.models.tiny import tiny

    if options.quick:
        return tiny(n_layers=6, d_model=32), "stdlib"
    return load("smollm2-135m", dtype=dtype), "packaged"


def folded(options):
    """Return one SAE over every layer, trained as in docs/tutorials/layers.md."""
    from saekit.hub.native import load
    from saekit.hub.shared import SharedSAE
    from saekit.saes.standardised import Standardised
    from saekit.saes.topk import TopK
    from saekit.training.train import train

    folder = options.out / ("layers-quick" if options.quick else "layers")
    if not (folder / "sae").exists():
        lm, corpus = model(options)
        sizes = {"d_in": lm.d_model, "d_out": lm.d_model, "d_sae": 32 if options.quick else 2048}
        inner = TopK(**sizes, k=8 if options.quick else 32)
        train(
            lm,
            site="L*.resid_post",
            fold=True,
            sae=Standardised(**sizes, inner=inner),
            corpus=corpus,
            tokens=12_000 if options.quick else 900_000,
            out=folder,
            resume=folder.exists(),
            shown=False,
        )
    found = load(folder, scaled=True)
    return folder, SharedSAE(found.sae, found.card)


def layers(options):
    """MLSAE: at how many layers a latent is active, by width."""
    from saekit.data.open import open_corpus
    from saekit.studies.layers.distributions import distribution, even_spread, single_layer_share
    from saekit.studies.layers.stream import adjacent_cosines
    from saekit.studies.layers.survey import SurveyConfig, survey
    from saekit.studies.layers.variances import decomposition, legacy_variances

    lm, corpus = model(options)
    _, shared = folded(options)
    n_ctx, rows_a_block = shared.card.n_ctx, 2 if options.quick else 8
    stream = TokenStream(open_corpus(corpus), "test", lm.tokenizer, n_ctx=n_ctx)
    rules = {str(s): shared.rule(s) for s in shared.sites}
    parts, alike = [], []
    for first in range(0, BLOCKS * rows_a_block, rows_a_block):
        config = SurveyConfig(
            tokens=rows_a_block * n_ctx, first_row=first, examples=0, batch_rows=rows_a_block
        )
        parts.append(survey(shared, lm, stream, config, shown=False).sums)
        part = _Part(stream, first)
        found = adjacent_cosines(lm, part, rules, shared.sites, n_rows=rows_a_block, shown=False)
        alike.append(found.pairs.columns["cosine_mean"])

    def row(what, theirs, figure):
        whole, *without = (figure(added(parts, left_out)) for left_out in (None, *range(BLOCKS)))
        ends = jackknife(whole, torch.tensor(without, dtype=torch.float64))
        return what, theirs, shown(whole, ends.low, ends.high)

    def spread(sums):
        found = distribution(sums.totals, sums.numbers)
        return float(found.std.nanmean()) / even_spread(sums.numbers)

    by_block = torch.tensor(alike, dtype=torch.float64).mean(1)
    cosine = [float(v) for v in mean_interval(by_block)]
    rows = [
        row("tokens of a latent at one layer only, share", "often", single_layer_share),
        row(
            "variance over layers, of a text over that of a token, published formula",
            "about 100",
            lambda sums: 1 / legacy_variances(sums).rel_var_t,
        ),
        row("the same, weighted by activity", "", lambda s: decomposition(s).tokens_over_within),
        row("deviation over layers, in an even spread's", "", spread),
        ("cosine of a token's streams at neighbouring layers", "high", shown(*cosine)),
    ]
    single = single_layer_share(added(parts, None))
    floors = [
        Floor("layers: single-layer share", single, least=0.01, most=0.99),
        Floor("layers: cosine of neighbouring layers", cosine[0], least=0.1, most=1),
    ]
    settings = {"model": lm.name, "tokens": BLOCKS * rows_a_block * n_ctx, "d_sae": shared.d_sae}
    return Found(("", "published", f"{lm.name}, {shared.d_sae:,} latents"), rows, floors, settings)


class _Part(TokenStream):
    """A stream of text from one of its rows on."""

    def __init__(self, stream, first):
        vars(self).update(vars(stream))
        self._first = first

    def rows(self, batch_rows, first_row=0, n_rows=None):
        return super().rows(batch_rows, self._first + first_row, n_rows)


def added(parts, left_out):
    """Return the sums of all parts but one."""
    total = type(parts[0])(parts[0].numbers, parts[0].d_sae)
    for i, part in enumerate(parts):
        if i != left_out:
            total.merge(part)
    return total


def locality(options):
    """Locality: bits of a latent's influence by depth, and by length of the context."""
    from saekit.data.open import open_corpus
    from saekit.studies.locality.filters.plain import Plain
    from saekit.studies.locality.runs import context_length, depth
    from saekit.studies.locality.runs.measure import Measure
    from saekit.studies.locality.runs.run_folder import RunOptions
    from saekit.studies.locality.runs.subjects import of_folders
    from saekit.studies.locality.windows import drawing

    lm, corpus = model(options, "float32")  # gradients of rounded numbers are none
    text = open_corpus(corpus)
    folder, shared = folded(options)
    n = len(shared.sites)
    chosen = [round(i * (n - 1) / (len(PYTHIA_BITS) - 1)) for i in range(len(PYTHIA_BITS))]
    subjects, _ = of_folders([folder], layers=chosen)
    windows = 8 if options.quick else 10
    how = Measure(most_latents=6, probes=6, matmul="float32" if options.quick else "bfloat16")
    n_ctx = 16 if options.quick else 64
    go_on = RunOptions(resume=True, shown=False)
    config = depth.Depth(corpus=text, n_ctx=n_ctx, windows=windows, measure=how)
    done = depth.run(lm, subjects, config, folder / "depth", go_on)
    assert not done.failures, done.failures[0]
    rows, values = [], []
    for i, (subject, bits) in enumerate(zip(subjects, PYTHIA_BITS, strict=True)):
        by_name = {
            key.rpartition("/")[2]: score
            for key, score in done.result.scores.items()
            if key.startswith(f"{subject.site}/")
        }
        ours, vector, less = (
            by_name[name]
            for name in (
                "entropy_bits_mean_over_windows",
                "token_vector_entropy_bits",
                "entropy_less_token_vector_bits",
            )
        )
        values.append(ours.value)
        stream = PYTHIA_STREAM.get(i)
        rows.append(
            (
                f"depth {i}/{len(PYTHIA_BITS) - 1}: {subject.site}",
                f"{bits}" + (f"; {stream}" if stream else ""),
                of_score(ours),
                of_score(vector),
                of_score(less),
            )
        )
    middle = subjects[len(subjects) // 2]
    most = n_ctx if options.quick else 128
    sweep = context_length.ContextLength(
        least=8, most=most, step=20, measure=replace(how, token_vector="none")
    )
    tokens = drawing.from_corpus(
        text, "test", lm.tokenizer, Plain(), n_ctx=most, windows=windows
    ).tokens
    found = context_length.run(lm, middle, tokens, sweep, folder / "context", go_on)
    for length in sweep.lengths():
        bits = found.result.scores[f"{length}/entropy_bits_mean_over_windows"]
        said = "level from 40 to 60 on" if length == 48 else ""
        rows.append((f"{middle.site}, {length} tokens", said, of_score(bits), "", ""))
    columns = ("", "published: latents; stream", "latents, bits", "stream, bits", "difference")
    deeper = values[-1] - values[0]
    least = 0.0 if options.quick else 1.0
    floors = [Floor("locality: bits, last site less first", deeper, least=least)]
    return Found(columns, rows, floors, {"model": lm.name, "windows": windows})


def of_score(score: Score) -> str:
    """Return a score as a cell."""
    return shown(score.value, score.low, score.high)


SYNTH = {  # published at 200 million samples, L0 25: F1, MCC, uniqueness, R2
    "BatchTopK": (0.732, 0.757, 0.984, 0.792)
}
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def synth(options):
    """SynthSAEBench-16k: what a share of the published training finds, along the way."""
    return synth_table([synth_run(options, seed) for seed in options.seeds], options.quick)


def synth_table(files, quick):
    """Return the table of measurements along the way, of one file a seed."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    # A run that was stopped between a measurement and a checkpoint measures once more.
    once = {(r["samples"], r["seed"]): r for r in lines}
    curve = [once[key] for key in sorted(once)]
    f1, mcc, unique, r2 = SYNTH["BatchTopK"]
    rows = [("published", "200 M", "25", f"{mcc}", f"{f1}", "", f"{unique}", f"{r2}", "")]
    for r in curve:
        rows.append(
            (
                f"seed {r['seed']}",
                f"{r['samples'] / 1e6:.2f} M",
                shown(*r["l0"], digits=1),
                shown(*r["mcc"], digits=3),
                shown(*r["f1_all"], digits=3),
                shown(*r["f1"], digits=3),
                shown(r["uniqueness_all"], digits=3),
                shown(*r["r2"], digits=3),
                shown(r["dead"], digits=3),
            )
        )
    columns = ("", "samples", "L0", "MCC", "F1, all", "F1, living", "uniqueness", "R2", "dead")
    last = curve[-1]
    over = last["mcc"][0] - last["mcc_chance"]
    floors = [Floor("synth: MCC over chance", over, least=0.05 if quick else 0.3)]
    keys = ("tokens", "batch_tokens", "lr")
    return Found(columns, rows, floors, {key: last[key] for key in keys})


def synth_run(options, seed):
    """Train one SAE and measure it at shares of its training; return the file of measurements."""
    from saekit.saes.batch_topk import BatchTopK
    from saekit.studies.truth.model.dictionaries import Random
    from saekit.studies.truth.model.presets import preset
    from saekit.studies.truth.training import Snapshots, fit_truth
    from saekit.training.fit import Fit

    folder = options.out / f"synth-{'quick' if options.quick else options.samples}-{seed}"
    file = folder.with_suffix(".jsonl")
    if (folder / "sae").exists():
        return file
    truth_config = replace(preset("synth_sae_bench_16k"), dictionary=Random())
    if options.quick:
        few = replace(truth_config.hierarchy, roots=8)
        truth_config = replace(truth_config, n_features=256, d_model=64, hierarchy=few)
    truth = truth_config.build()
    d = truth.d_model
    sae = BatchTopK(d_in=d, d_out=d, d_sae=128 if options.quick else 4096, k=25)
    tokens = 2**16 if options.quick else options.samples
    fit = Fit(sae=sae, tokens=tokens, batch_tokens=1024, seed=seed)
    file.parent.mkdir(parents=True, exist_ok=True)

    def take(share, part):
        record = synth_scores(part, truth, options.quick)
        record |= {"seed": seed, "samples": round(share * tokens), "tokens": tokens}
        record |= {"batch_tokens": 1024, "lr": fit.peak_lr}
        with file.open("a") as f:
            f.write(json.dumps(record) + "\n")
        print(json.dumps({k: record[k] for k in ("seed", "samples", "mcc", "r2")}), flush=True)

    shares = SHARES[-2:] if options.quick else SHARES
    there = folder.exists()
    fit_truth(fit, truth, out=folder, resume=there, snapshots=Snapshots(shares, take), shown=False)
    return file


def synth_scores(sae, truth, quick):
    """Return recovery with intervals: over samples, and over features for what has no samples."""
    from saekit.studies.truth.evals.ground_truth import GroundTruth

    n_tokens = 2**12 if quick else 2**14
    result = GroundTruth(n_tokens=n_tokens, batch_tokens=n_tokens // 64).run(sae, truth)
    by_latent = result.details["by_latent"]
    feature = torch.tensor(by_latent["matched_feature"])
    rows, features = sae.directions().detach().float(), truth.features.float()
    held = feature >= 0
    pair = torch.nn.functional.cosine_similarity(rows[held], features[feature[held]])
    mcc = result.scores["mcc"].value
    assert mcc is not None and abs(float(pair.abs().mean()) - mcc) < 1e-4
    found = {"mcc": [float(v) for v in mean_interval(pair.abs().double())]}
    f1 = torch.tensor([math.nan if v is None else v for v in by_latent["f1"]])
    alive = torch.tensor(by_latent["density"]) > 0
    found["f1"] = [float(v) for v in mean_interval(f1[alive].double())]
    found["f1_all"] = [float(v) for v in mean_interval(f1.where(alive, 0.0).double())]
    for name in ("l0", "r2"):
        score = result.scores[name]
        found[name] = [score.value, score.low, score.high]
    for name in ("uniqueness_all", "dead", "mcc_chance"):
        found[name] = result.scores[name].value
    return found
