"""From text to a finished SAE on disk: wall time of whole runs, and the error each ends with.

    python benchmarks/end_to_end.py --peer-python PYTHON [--quick] [--check] [--json]
                                    [--tokens 200704] [--saes 8] [--tuned]

The embedded model, the residual stream after block 15 of 30, rows of 128 tokens, 9216 latents,
k 32, steps of 4096 tokens. Every run has a process of its own, one after another; its time
begins when libraries are imported, with the loading of the model, and ends when weights are on
disk. That of the whole process, imports and all, is given beside it.

saekit is `saekit train`, once with steps as long as the peers' and once as it would choose them;
without the token cache of earlier runs. sae-lens is its `LanguageModelSAETrainingRunner` on a
transformers model (its way to load this one), and again with both kinds of autocast;
dictionary_learning its `ActivationBuffer` and `trainSAE`; sparsify its `Trainer` on what its
command line loads, a model without logits. Buffers hold 32,768 tokens, special tokens are left
out, warm-ups that would outlast the run are a twentieth of it; all else is each library's default.

`--saes N` trains N from one stream with different seeds, as each library has it: sae-lens'
`MultiSAETrainingRunner`, several configurations of `trainSAE`, sparsify's `init_seeds`, and
`saekit sweep`.

FVU is of 8192 held-out tokens, by one function, from what each library's own class makes of
them when loaded from disk (the first SAE of several). So short a run is no test of quality (see
quality.py): it shows that what was timed was training.

`--quick --check`: every entry whose library is there runs, and saekit's FVU is below 0.95: its SAE
predicts something.

What would mislead: times where FVU is not below 1; a short run, where loading counts for more,
as does what is left in the buffers of sae-lens and dictionary_learning (up to 32,768 tokens);
learning rates are for longer runs.
"""

import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Entry, Job
from safetensors.torch import load_file, save_file

MODEL, LAYER, N_CTX = "smollm2-135m", 15, 128
HELD_OUT = 8192
TARGETS = {  # SAEs: peer: (floor, goal)
    1: {"sae_lens": (3.5, 5.7), "dictionary_learning": (2.6, 4.3), "sparsify": (4.3, 7)},
    8: {"sae_lens": (8, 14), "dictionary_learning": (5, 9.5), "sparsify": (4, 7)},
}


def run_once(spec, train, predict):
    """Return a job that is a whole run; afterwards it tells the model's own predictions."""
    side.mark_baseline()
    out = Path(spec["out"]) / "made"
    out.mkdir(parents=True)

    def facts():
        x = load_file(spec["held_out"])["x"]
        with torch.no_grad():
            y_hat = torch.cat([predict(out)(part) for part in x.split(2048)])
        save_file({"y_hat": y_hat.float().contiguous()}, Path(spec["out"]) / "y_hat.safetensors")
        return {}

    return Job(lambda: train(out), spec["tokens"] * spec["saes"], facts)


def texts_of(spec):
    return json.loads(Path(spec["texts"]).read_text())


# saekit


def _fresh_cache(folder):
    """Point saekit to a cache with the model and the text but none of its tokens."""
    from saekit.core.files import cache_folder

    fresh = Path(folder) / "cache"
    fresh.mkdir()
    for part in ("models", "corpora", "wheels"):
        if (cache_folder() / part).exists():
            (fresh / part).symlink_to(cache_folder() / part)
    os.environ["SAEKIT_CACHE"] = str(fresh)


def saekit(spec, *, own_batch=False):
    import transformers.models.llama.modeling_llama  # noqa: F401

    import saekit.models.hf
    import saekit.training.loop  # noqa: F401 - imported before the clock starts
    from saekit.cli.main import main as command
    from saekit.hub import native

    _fresh_cache(spec["out"])
    words = ["--model", MODEL, "--site", f"L{LAYER}.resid_post", "--arch", "topk"]
    words += ["--d-sae", str(spec["n"]), "--k", str(spec["k"]), "--tokens", str(spec["tokens"])]
    words += ["--set", f"n_ctx={N_CTX}", "--device", "cpu"]
    words += [] if own_batch else ["--set", f"batch_tokens={spec['batch']}"]

    def train(out):
        begin = ["train"]
        if spec["saes"] > 1:
            begin = ["sweep", "--vary", f"seed={','.join(map(str, range(spec['saes'])))}"]
        try:
            return command([*begin, *words, "--out", str(out / "run")])
        except SystemExit as end:
            assert not end.code, f"saekit ended with {end.code}"

    def predict(out):
        return native.load(out / "run" / ("seed0" if spec["saes"] > 1 else ".")).sae

    return run_once(spec, train, predict)


def saekit_own_batch(spec):
    return saekit(spec, own_batch=True)


# the peers


def sae_lens(spec, *, autocast=False):
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset
    from sae_lens import (
        SAE,
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        MultiSAETrainingRunner,
        MultiSAETrainingRunnerConfig,
        TopKTrainingSAEConfig,
    )

    common = {
        "model_name": spec["folder"],
        "model_class_name": "AutoModelForCausalLM",
        "context_size": N_CTX,
        "n_batches_in_buffer": spec["buffer"] // N_CTX,
        "training_tokens": spec["tokens"],
        "train_batch_size_tokens": spec["batch"],
        "exclude_special_tokens": True,
        "checkpoint_path": None,
        "device": "cpu",
        "logger": LoggingConfig(log_to_wandb=False),
        "streaming": False,
        "autocast": autocast,
        "autocast_lm": autocast,
    }
    hook = f"model.layers.{LAYER}"

    def train(out):
        text = Dataset.from_dict({"text": texts_of(spec)})
        sae = TopKTrainingSAEConfig(d_in=spec["d"], d_sae=spec["n"], k=spec["k"])
        if spec["saes"] == 1:
            cfg = LanguageModelSAERunnerConfig(
                sae=sae,
                hook_name=hook,
                is_dataset_tokenized=False,
                output_path=str(out / "0"),
                verbose=False,
                **common,
            )
            return LanguageModelSAETrainingRunner(cfg, override_dataset=text).run()
        saes = {str(i): dataclasses.replace(sae) for i in range(spec["saes"])}
        cfg = MultiSAETrainingRunnerConfig(
            saes=saes, hook_names=hook, output_path=str(out), **common
        )
        return MultiSAETrainingRunner(cfg, override_dataset=text).run()

    return run_once(spec, train, lambda out: SAE.load_from_disk(str(out / "0")))


def sae_lens_autocast(spec):
    return sae_lens(spec, autocast=True)


def dictionary_learning(spec):
    import transformers.models.llama.modeling_llama  # noqa: F401
    from dictionary_learning.buffer import ActivationBuffer
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE
    from nnsight import LanguageModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps = spec["tokens"] // spec["batch"]
    warm = max(1, steps // 20)

    def train(out):
        tokenizer = AutoTokenizer.from_pretrained(spec["folder"])
        module = AutoModelForCausalLM.from_pretrained(spec["folder"])
        model = LanguageModel(module, tokenizer=tokenizer)
        buffer = ActivationBuffer(
            itertools.cycle(texts_of(spec)),
            model,
            model.model.layers[LAYER],
            d_submodule=spec["d"],
            n_ctxs=spec["buffer"] // N_CTX,
            ctx_len=N_CTX,
            refresh_batch_size=32,
            out_batch_size=spec["batch"],
            remove_bos=True,
        )
        configs = [
            {
                "trainer": TopKTrainer,
                "steps": steps,
                "activation_dim": spec["d"],
                "dict_size": spec["n"],
                "k": spec["k"],
                "layer": LAYER,
                "lm_name": MODEL,
                "device": "cpu",
                "seed": seed,
                "warmup_steps": warm,
                "threshold_start_step": warm,
            }
            for seed in range(spec["saes"])
        ]
        trainSAE(buffer, configs, steps, save_dir=str(out), device="cpu")

    return run_once(
        spec, train, lambda out: AutoEncoderTopK.from_pretrained(out / "trainer_0" / "ae.pt")
    )


def sparsify(spec):
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset
    from sparsify import SaeConfig, SparseCoder, TrainConfig, Trainer
    from sparsify.data import chunk_and_tokenize
    from transformers import AutoModel, AutoTokenizer

    def train(out):
        tokenizer = AutoTokenizer.from_pretrained(spec["folder"])
        model = AutoModel.from_pretrained(spec["folder"])
        text = Dataset.from_dict({"text": texts_of(spec)})
        rows = chunk_and_tokenize(text, tokenizer, max_seq_len=N_CTX, num_proc=1)
        cfg = TrainConfig(
            SaeConfig(num_latents=spec["n"], k=spec["k"]),
            batch_size=spec["batch"] // N_CTX,
            layers=[LAYER],
            log_to_wandb=False,
            save_dir=str(out),
            run_name="run",
            init_seeds=list(range(spec["saes"])),
            exclude_tokens=tokenizer.all_special_ids,
        )
        n_rows = spec["tokens"] // N_CTX
        assert len(rows) >= n_rows, "too little text"
        Trainer(cfg, rows.select(range(n_rows)), model).fit()

    def predict(out):
        made = next(path.parent for path in sorted(out.rglob("sae.safetensors")))
        coder = SparseCoder.load_from_disk(made)

        def y_hat(x):
            acts, latents, _ = coder.encode(x)
            return coder.decode(acts, latents)

        return y_hat

    return run_once(spec, train, predict)


MAKERS = {
    f.__name__: f
    for f in (saekit, saekit_own_batch, sae_lens, sae_lens_autocast, dictionary_learning, sparsify)
}


# The comparison


def prepare(folder, options):
    """Write the text for the peers and the held-out activations; return what makers need."""
    from saekit.activations.harvest import Harvest
    from saekit.activations.pairs import Pair
    from saekit.activations.rules import TokenRule
    from saekit.data.corpora.packaged import Packaged
    from saekit.data.tokenise import TokenStream
    from saekit.models.embedded.unpacking import embedded
    from saekit.models.hf import load

    model = load(MODEL, dtype="float32", check=False)

    def stream(split):
        return TokenStream(Packaged(), split, model.tokenizer, n_ctx=N_CTX)

    pair = Pair(read=(f"L{LAYER}.resid_post",))
    found = []
    for acts in Harvest(model, stream("test"), pair, TokenRule()).batches():
        found.append(acts.x)
        if sum(map(len, found)) >= options.held_out:
            break
    x = torch.cat(found)[: options.held_out].float()
    save_file({"x": x.contiguous()}, Path(folder) / "held_out.safetensors")
    # Cut to the length of a row: dictionary_learning reads no further into a text.
    texts, n_rows = [], (options.tokens + 4 * options.buffer) // (N_CTX - 1)
    for rows in stream("train").rows(64, n_rows=n_rows):
        texts += [model.tokenizer.decode(row[1:].tolist()) for row in rows.tokens]
    (Path(folder) / "texts.json").write_text(json.dumps(texts))
    return {
        "texts": str(Path(folder) / "texts.json"),
        "folder": str(embedded(MODEL)),
        "held_out": str(Path(folder) / "held_out.safetensors"),
        "d": model.d_model,
        "n": options.d_sae,
        "k": 32,
        "batch": options.batch,
        "tokens": options.tokens,
        "saes": options.saes,
        "buffer": options.buffer,
    }


def fvu(x, y_hat):
    return float((y_hat - x).square().sum() / (x - x.mean(0)).square().sum())


def measure(entry, spec, options, log):
    """Run an entry once, in a process of its own, and return what it took."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        worker = side.Worker(entry, __file__, options.threads, log)
        more = {"entry": entry.name, "threads": options.threads, "out": out}
        worker.ask(do="make", spec=spec | more)
        worker.answer()
        sample = worker.sample(1)
        whole = time.perf_counter() - began
        worker.ask(do="facts")
        facts = worker.answer()
        worker.close()
        if worker.failed is not None:
            print(f"{entry.label}: not run: {worker.failed}", file=sys.stderr, flush=True)
            return {"failed": worker.failed}
        x = load_file(spec["held_out"])["x"]
        y_hat = load_file(Path(out) / "y_hat.safetensors")["y_hat"]
    print(f"{entry.label}: {sample['wall']:.1f} s", file=sys.stderr, flush=True)
    return sample | facts | {"process_seconds": whole, "fvu": fvu(x, y_hat)}


def together(runs):
    """Return several runs of an entry as side.py has its results."""
    good = [r for r in runs if "failed" not in r]
    if not good:
        return runs[0]
    seconds = statistics.median(r["wall"] for r in good)
    first = good[0]
    return {
        **{k: first[k] for k in ("tokens", "versions", "peak_bytes", "peak_exact")},
        "seconds": seconds,
        "tokens_per_second": first["tokens"] / seconds,
        "process_seconds": statistics.median(r["process_seconds"] for r in good),
        "cpu_seconds": statistics.median(r["cpu"] for r in good),
        "others": statistics.median(r["others"] for r in good),
        "fvu": statistics.mean(r["fvu"] for r in good),
        "samples": good,
    }


def table(results):
    head = "entry | seconds | whole process | SAE tokens/s | saekit is times as fast | CPU s"
    head += " | others | peak memory MB | FVU held out"
    lines = [f"| {head} |", "|" + " --- |" * 9]
    for label, r in results.items():
        if not side.ran(r):
            lines.append(f"| {label} | not run: {r['failed']} |" + " |" * 7)
            continue
        ours = results.get("saekit")
        times = f"{side.ratio(ours, r)[0]:.2f}" if side.ran(ours) and label != "saekit" else ""
        cells = [label, f"{r['seconds']:.1f}", f"{r['process_seconds']:.1f}"]
        cells += [f"{r['tokens_per_second']:,.0f}", times, f"{r['cpu_seconds']:.0f}"]
        cells += [f"{100 * r['others']:.0f} %", f"{r['peak_bytes'] / 1e6:.0f}", f"{r['fvu']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options_of():
    parser = side.parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=49 * 4096)
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--buffer", type=int, default=2**15, help="tokens the peers mix")
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--saes", type=int, default=1, help="SAEs trained from one text")
    parser.add_argument("--tuned", action="store_true", help="peers also with a tuned allocator")
    parser.set_defaults(rounds=1)
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.held_out, options.d_sae = 8 * 1024, 2048, 2048
        options.batch, options.buffer = 1024, 4096
    options.tokens -= options.tokens % options.batch
    return options


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    options = options_of()
    names = [n for n in MAKERS if side.wanted(n, options)]
    names = [n for n in names if options.saes == 1 or n != "saekit_own_batch"]
    entries = [Entry(n, side.python_of(n, options)) for n in names]
    if options.tuned:
        entries += [e._replace(tuned=True) for e in entries if not e.name.startswith("saekit")]
    runs = {e.label: [] for e in entries}
    with tempfile.TemporaryDirectory() as folder, side.log_of(options) as log:
        spec = prepare(folder, options)
        for entry in entries * options.rounds:
            runs[entry.label].append(measure(entry, spec, options, log))
    results = {label: together(found) for label, found in runs.items()}
    print(f"\n{table(results)}\n")
    targets = [
        side.compared(
            f"{options.saes} SAEs vs {peer}",
            results.get("saekit"),
            results.get(Entry(peer, None).label),
            *floor_and_goal,
        )
        for peer, floor_and_goal in TARGETS.get(options.saes, {}).items()
        if side.wanted(peer, options)
    ]
    floors = [side.all_ran(results, options)]
    for label, r in results.items():
        if label.startswith("saekit") and side.ran(r):
            floors.append(Floor(f"{label}: FVU", r["fvu"], most=0.95))
    side.finish("end_to_end", options, {"runs": results}, targets, floors)


if __name__ == "__main__":
    main()
