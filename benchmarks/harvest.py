"""Harvest and shuffle: text to activations, and activations to training batches, beside peers.

    python benchmarks/harvest.py --peer-python PYTHON [--quick] [--check] [--json]

Harvest: 8 rows of 256 tokens of the packaged text through the embedded model to the residual
stream after block 15 of 30. saekit's `Harvest` with its own dtype (bfloat16 where the processor
multiplies it fast) and with float32; the bare forward pass that stops at the layer; sae-lens
`ActivationsStore.get_activations`, on a HookedTransformer (the library's default class) and on
its proxy of the transformers model, each also with `autocast_lm`; dictionary_learning's way
(nnsight, stopped at the layer); sparsify's (a hook in a whole pass of the model without logits
that its command line loads, and of the one with logits, which its `Trainer` takes too). All are
given token ids. The median norm of what came is compared.

Shuffle: what a token costs between the language model and the optimiser, with activations of
width 576 handed in ready-made, 2048 at a time, and batches of 4096 out of a buffer of 65,536.

`--quick --check`: every entry whose library is there runs, and reads the activations that the
bare pass gives (median norms to within 2 %).

What would mislead: transformer-lens does not list this model, so the HookedTransformer is put
together here from its weights, and a user of sae-lens would be on the proxy, which is faster:
see its row. dictionary_learning also tokenises text in this step and sparsify copies what it
harvested; neither is counted. bfloat16 activations are not float32 ones: compare like with like.
A buffer's cost depends on its size, by far the most for sae-lens, whose own default is smaller
than a batch.
"""

import contextlib
import itertools
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import _side_by_side as side
import torch
from _command import Floor
from _side_by_side import Entry, Job, Target
from safetensors.torch import load_file, save_file

MODEL, LAYER, N_CTX, ROWS = "smollm2-135m", 15, 256, 8
WIDTH, CHUNK, BATCH, BUFFER = 576, 2048, 4096, 2**16
HARVESTS = {  # peer: which of saekit's is compared with it, floor, goal
    "sae_lens": [("saekit_float32", 2.1, 3.4), ("saekit", 2.1, 3.4)],
    "sae_lens_autocast": [("saekit", 1.4, 1.5)],
    "sparsify": [("saekit", 4.4, 7)],
}
MICROSECONDS = (1.0, 0.6)
AGREE = 0.02


class Read:
    """The rows, and what came of them last."""

    def __init__(self, spec):
        self.rows = load_file(spec["rows"])["rows"]
        self.folder, self.layer = spec["folder"], spec["layer"]
        self.acts = None
        side.mark_baseline()

    def module(self, dtype=torch.float32):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        module = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype)
        return module.eval().requires_grad_(False), tokenizer

    def job(self, read):
        def step():
            with torch.no_grad():
                self.acts = read()

        def facts():
            norms = self.acts.float().flatten(0, -2).norm(dim=-1)
            kind = str(self.acts.dtype).removeprefix("torch.")
            return {"median_norm": float(norms.median()), "dtype": kind}

        return Job(step, self.rows.numel(), facts)


def saekit(spec, dtype="auto"):
    from saekit.activations.harvest import Harvest
    from saekit.activations.pairs import Pair
    from saekit.activations.rules import FittedRule, TokenRule
    from saekit.data.corpora.packaged import Packaged
    from saekit.data.tokenise import TokenStream
    from saekit.models.hf import load

    r = Read(spec)
    model = load(MODEL, dtype=dtype, check=False)
    stream = TokenStream(Packaged(), "train", model.tokenizer, n_ctx=r.rows.shape[1])
    pair = Pair(read=(f"L{r.layer}.resid_post",))
    fitted = {pair.read[0]: FittedRule.from_dict(spec["rule"])}
    harvest = Harvest(model, stream, pair, TokenRule(), batch_rows=len(r.rows), fitted=fitted)
    return r.job(lambda: torch.cat([acts.x for acts in harvest.batches(0, len(r.rows))]))


def saekit_float32(spec):
    return saekit(spec, "float32")


class _Stop(Exception):
    pass


def bare(spec, dtype=torch.bfloat16):
    """The least that can be done: run the blocks up to the site, keep its output."""
    r = Read(spec)
    decoder = r.module(dtype)[0].get_decoder()
    found = []

    def stop(_module, _args, output):
        found.append(output if torch.is_tensor(output) else output[0])
        raise _Stop

    decoder.layers[r.layer].register_forward_hook(stop)

    def read():
        with contextlib.suppress(_Stop):
            decoder(input_ids=r.rows, use_cache=False)
        return found.pop()

    return r.job(read)


def bare_float32(spec):
    return bare(spec, torch.float32)


def hooked_transformer(module, tokenizer):
    """Return transformer-lens' own model with the weights of a Llama of transformers."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_llama_weights

    c = module.config
    d_head = c.hidden_size // c.num_attention_heads
    cfg = HookedTransformerConfig(
        d_model=c.hidden_size,
        d_head=d_head,
        n_heads=c.num_attention_heads,
        d_mlp=c.intermediate_size,
        n_layers=c.num_hidden_layers,
        n_ctx=2048,
        eps=c.rms_norm_eps,
        d_vocab=c.vocab_size,
        act_fn=c.hidden_act,
        n_key_value_heads=c.num_key_value_heads,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        rotary_base=int(c.rope_parameters["rope_theta"]),
        final_rms=True,
        gated_mlp=True,
        original_architecture="LlamaForCausalLM",
        device="cpu",
    )
    model = HookedTransformer(cfg, tokenizer)
    model.load_state_dict(convert_llama_weights(module, cfg), strict=False)
    return model


def sae_lens(spec, *, proxy=False, autocast=False):
    from datasets import Dataset
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activations_store import ActivationsStore

    r = Read(spec)
    hook = f"model.layers.{r.layer}" if proxy else f"blocks.{r.layer}.hook_resid_post"
    module, tokenizer = r.module()
    if proxy:
        model = HookedProxyLM(module, tokenizer, hook_names=[hook])
    else:
        model = hooked_transformer(module, tokenizer)
    n_ctx = r.rows.shape[1]
    store = ActivationsStore(
        model=model,
        dataset=Dataset.from_dict({"input_ids": r.rows.tolist()}),
        streaming=False,
        hook_name=hook,
        hook_head_index=None,
        context_size=n_ctx,
        d_in=module.config.hidden_size,
        n_batches_in_buffer=len(r.rows),
        total_training_tokens=r.rows.numel(),
        store_batch_size_prompts=len(r.rows),
        train_batch_size_tokens=r.rows.numel(),
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        autocast_lm=autocast,
    )
    return r.job(lambda: store.get_activations(r.rows))


def sae_lens_autocast(spec):
    return sae_lens(spec, autocast=True)


def sae_lens_proxy(spec):
    return sae_lens(spec, proxy=True)


def sae_lens_proxy_autocast(spec):
    return sae_lens(spec, proxy=True, autocast=True)


def dictionary_learning(spec):
    from nnsight import LanguageModel

    r = Read(spec)
    module, tokenizer = r.module()
    model = LanguageModel(module, tokenizer=tokenizer)
    submodule = model.model.layers[r.layer]

    def read():
        with model.trace(r.rows, scan=False, validate=False):
            found = submodule.output.save()
            model.inputs.save()
            submodule.output.stop()
        return found.value[0] if isinstance(found.value, tuple) else found.value

    return r.job(read)


def sparsify(spec, *, logits=False):
    import sparsify  # noqa: F401 - for what it sets
    from transformers import AutoModel

    r = Read(spec)
    torch.set_float32_matmul_precision("high")  # as its Trainer does
    model = r.module()[0] if logits else AutoModel.from_pretrained(r.folder).eval()
    found = []

    def keep(_module, _inputs, outputs):
        found.append(outputs[0] if isinstance(outputs, tuple) else outputs)

    point = model.base_model.get_submodule(f"layers.{r.layer}")

    def read():
        handle = point.register_forward_hook(keep)
        try:
            model(r.rows)
        finally:
            handle.remove()
        return found.pop()

    return r.job(read)


def sparsify_logits(spec):
    return sparsify(spec, logits=True)


# Shuffle


def chunks():
    """Yield ready-made activations for ever, without copying."""
    pool = torch.randn(16 * CHUNK, WIDTH, generator=torch.Generator().manual_seed(0))
    return itertools.cycle(pool.split(CHUNK))


def served(batches, tokens=BUFFER):
    """Return a job that takes as many batches as a buffer holds."""

    def step():
        for _ in range(tokens // BATCH):
            next(batches)

    next(batches)  # fills it
    return Job(step, tokens)


def saekit_shuffle(spec, dtype=torch.float32):
    from saekit.activations.batch import ActBatch
    from saekit.activations.harvest import Counts
    from saekit.activations.pairs import Pair
    from saekit.activations.shuffle import Rolling

    parts = [part.to(dtype) for part in itertools.islice(chunks(), 16)]
    where = torch.arange(CHUNK)

    def batches(first_row=0, n_rows=None):
        return (ActBatch(x, x, where, where) for x in itertools.cycle(parts))

    ready = SimpleNamespace(
        pair=Pair(read=("L0.resid_post",)),
        batch_rows=ROWS,
        counts=Counts(),
        batches=batches,
        model=SimpleNamespace(device=torch.device("cpu")),
    )
    side.mark_baseline()
    stream = Rolling(
        ready, buffer_tokens=BUFFER, tokens=10**12, epochs=1, batch_tokens=BATCH, seed=0
    )
    return served(iter(stream.batch, None))


def saekit_shuffle_bfloat16(spec):
    return saekit_shuffle(spec, torch.bfloat16)


def sae_lens_shuffle(spec):
    from sae_lens.training.mixing_buffer import mixing_buffer

    source = chunks()
    side.mark_baseline()
    return served(mixing_buffer(BUFFER, BATCH, source))


class _Ready:
    """What `ActivationBuffer` asks of a model, with activations that are there already."""

    dtype = torch.float32

    def __init__(self):
        self.source, self.found = chunks(), None
        shape = (ROWS, CHUNK // ROWS)
        mask = {"attention_mask": torch.ones(shape, dtype=torch.int64)}
        self.inputs = SimpleNamespace(save=lambda: SimpleNamespace(value=((), mask)))
        self.output = SimpleNamespace(stop=lambda: None, save=lambda: self.found)

    @contextlib.contextmanager
    def trace(self, *_args, **_settings):
        self.found = SimpleNamespace(value=next(self.source).view(ROWS, -1, WIDTH))
        yield


def dictionary_learning_shuffle(spec):
    from dictionary_learning.buffer import ActivationBuffer

    ready, n_ctx = _Ready(), CHUNK // ROWS
    side.mark_baseline()
    buffer = ActivationBuffer(
        itertools.repeat(""),
        ready,
        ready,
        d_submodule=WIDTH,
        n_ctxs=BUFFER // n_ctx,
        ctx_len=n_ctx,
        refresh_batch_size=ROWS,
        out_batch_size=BATCH,
    )
    return served(buffer)


READERS = (
    saekit,
    saekit_float32,
    bare,
    bare_float32,
    sae_lens,
    sae_lens_autocast,
    sae_lens_proxy,
    sae_lens_proxy_autocast,
    dictionary_learning,
    sparsify,
    sparsify_logits,
)
SHUFFLERS = (saekit_shuffle, saekit_shuffle_bfloat16, sae_lens_shuffle, dictionary_learning_shuffle)
MAKERS = {f.__name__: f for f in READERS + SHUFFLERS}


# The comparison


def prepare(folder, n_rows):
    """Write the rows that all read, and return what the makers need."""
    from saekit.activations.rules import TokenRule, fit
    from saekit.data.corpora.packaged import Packaged
    from saekit.data.tokenise import TokenStream
    from saekit.models.embedded.unpacking import embedded
    from saekit.models.hf import load
    from saekit.models.sites import parse_site

    model = load(MODEL, check=False)
    stream = TokenStream(Packaged(), "train", model.tokenizer, n_ctx=N_CTX)
    rows = next(iter(stream.rows(n_rows, n_rows=n_rows))).tokens
    save_file({"rows": rows.contiguous()}, Path(folder) / "rows.safetensors")
    site = parse_site(f"L{LAYER}.resid_post")
    rule = fit(TokenRule(), model.tokenizer.special_ids, rows, model.read(rows, [site])[site])
    return {
        "rows": str(Path(folder) / "rows.safetensors"),
        "folder": str(embedded(MODEL)),
        "layer": LAYER,
        "rule": rule.to_dict(),
    }


def odd(results):
    """Return the entries whose activations are not those of the bare pass, as sentences."""
    known = results.get("bare-float32")
    if not side.ran(known):
        return []
    norm = known["median_norm"]
    return [
        f"{label}: median norm {r['median_norm']:.2f}, bare pass {norm:.2f}"
        for label, r in results.items()
        if side.ran(r) and abs(r["median_norm"] / norm - 1) > AGREE
    ]


def targets_of(read, shuffled, options):
    def of(name, results):
        return results.get(Entry(name, None).label)

    out = []
    for peer, each in HARVESTS.items():
        for ours, floor, goal in each:
            if side.wanted(peer, options) and side.wanted(ours, options):
                name = f"harvest: {ours} vs {peer}"
                out.append(side.compared(name, of(ours, read), of(peer, read), floor, goal))
    mine = of("saekit_shuffle", shuffled)
    if mine is not None:
        cost = 1e6 * side.per_token(mine) if side.ran(mine) else None
        why = mine.get("failed", "")
        out.append(Target("shuffle: us a token", cost, *MICROSECONDS, most=True, why=why))
    return out


def shuffle_table(results):
    lines = ["| shuffle | us a token | peak memory MB |", "|" + " --- |" * 3]
    for label, r in results.items():
        if side.ran(r):
            cost = 1e6 * side.per_token(r)
            lines.append(f"| {label} | {cost:.2f} | {r['peak_bytes'] / 1e6:.0f} |")
        else:
            lines.append(f"| {label} | not run: {r['failed']} | |")
    return "\n".join(lines)


def main():
    if "--worker" in sys.argv:
        side.serve(MAKERS)
        return
    options = side.made_quick(side.parser_of(__doc__).parse_args())

    def entries(makers):
        names = [f.__name__ for f in makers if side.wanted(f.__name__, options)]
        return [Entry(name, side.python_of(name, options)) for name in names]

    with tempfile.TemporaryDirectory() as folder:
        spec = prepare(folder, 2 if options.quick else ROWS)
        read = side.race(entries(READERS), __file__, spec, options)
        shuffled = side.race(entries(SHUFFLERS), __file__, spec, options)
    print(f"\n{side.race_table(read, 'saekit')}\n\n{shuffle_table(shuffled)}\n")
    strange = odd(read)
    for line in strange:
        print(f"other activations: {line}", file=sys.stderr)
    figures = {"harvest": read, "shuffle": shuffled, "other_activations": strange}
    floors = [side.all_ran(found, options) for found in (read, shuffled)]
    floors.append(Floor("entries with other activations", float(len(strange)), most=0))
    side.finish("harvest", options, figures, targets_of(read, shuffled, options), floors)


if __name__ == "__main__":
    main()
