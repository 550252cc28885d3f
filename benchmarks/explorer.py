"""The explorer: what an index costs, how large it is, and how fast its pages answer.

    python benchmarks/explorer.py [--quick] [--check] [--json] [--parts index pages prompt]

index   The embedded model, 200,000 tokens of the packaged text, a TopK SAE of 4,096 latents (k 32,
        random weights) at L10.resid_post: `saekit.index` whole, between two halves of a bare
        pass of the same tokens, harvest and encoder alone. Wall and CPU seconds of both.
pages   What is read of an index, without the embedded model: a tiny model over the embedded one's
        tokens reads the packaged text, so tokens, texts and latents on at a token are real in
        number and kind, and what latents respond to is not. One SAE of 8,192 latents, of rows of
        128 tokens, with 45 examples a latent (an index has 37 otherwise: the strongest band is
        made longer), a site exported from it, and one of 131,072 latents over bytes. `saekit serve`
        is started on nine copies of the first and the second: seconds until the page, its
        scripts and the library have come; then 20 clients that each open a random latent of a
        random SAE with its panels, look at it for half a second, and open the next; the same
        without looking, which tells how many a second there can be; queries over ten columns of
        the wide one; the largest resident size of the server.
prompt  An SAE that all 30 layers of the embedded model share (2,304 latents, k 32, random weights):
        prompts of 100 tokens as jobs of a server, from asking to the result, the model loaded.

`--check`: an index takes at most 1.3 times the bare pass; 20 MB at 45 examples; the first page
within 2 s; 95 % of latents within 100 ms; a query within 200 ms; scripts and styles below 250 kB
compressed; the server below 500 MB; a prompt within 2 s and its reply below 100 kB; an exported
latent at most 20 kB and 10 ms. `--quick --check`: tiny models and few latents, with floors that a
path misses which does its work several times over.

What would mislead: other processes. Clients share the cores with the server. An SAE at a later
layer, or a larger model, makes the index cheaper beside the bare pass, and a wider one dearer.
"""

import contextlib
import gzip
import http.client
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import _command
from _command import Floor

PARTS = ("index", "pages", "prompt")
FULL = {
    "index": {"tokens": 200_000, "d_sae": 4096, "n_ctx": 128},
    "pages": {
        "tokens": 1_000_000,
        "d_sae": 8192,
        "examples": 45,
        "wide": 2**17,
        "clients": 20,
        "seconds": 10.0,
    },
    "prompt": {"tokens": 100, "d_sae": 2304, "prompts": 5},
}
SMALL = {
    "index": {"tokens": 30_000, "d_sae": 256, "n_ctx": 64},
    "pages": {
        "tokens": 60_000,
        "d_sae": 256,
        "examples": 45,
        "wide": 2**12,
        "clients": 4,
        "seconds": 1.5,
    },
    "prompt": {"tokens": 100, "d_sae": 256, "prompts": 3},
}
N_SAES, LOOK = 10, 0.5  # and seconds that a reader looks at a latent
COLUMNS = (
    "density<0.5 and max>0 and mean>=0 and std>=0 and count>1 and token_share<=1 and "
    "documents>=1 and decoder_norm>0 and encoder_norm>0 and not token='zebra' sort -max"
)


def rows_of(lm, n_ctx, *, packaged=True):
    """Return text as rows of tokens."""
    from saekit.data.open import open_corpus
    from saekit.data.tokenise import TokenStream

    corpus = open_corpus("packaged" if packaged else "stdlib")
    return TokenStream(corpus, "train", lm.tokenizer, n_ctx=n_ctx)


def random_sae(lm, stream, sites, d_sae, folder):
    """Save an SAE with random weights that reads some sites of a model, and return it loaded.

    One of a single site has a bias that takes the mean of its activations away, so that no latent
    is on everywhere.
    """
    import torch

    import saekit
    from saekit.activations.harvest import Harvest
    from saekit.activations.pairs import Pair
    from saekit.activations.rules import TokenRule
    from saekit.hub.card import Card
    from saekit.hub.trained import TrainedSAE
    from saekit.saes.standardised import Standardised
    from saekit.saes.topk import TopK
    from saekit.training.scaling import fit_scaling

    pair = Pair(read=tuple(sites), fold=len(sites) > 1)
    sizes = {"d_in": lm.d_model, "d_out": lm.d_model, "d_sae": d_sae}
    cfg = TopK(**sizes, k=32)
    if len(sites) > 1:
        cfg = Standardised(**sizes, inner=cfg)
    harvest = Harvest(lm, stream, pair, TokenRule())
    if len(sites) > 1:
        fit_scaling(harvest, cfg)
    sae = cfg.build(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    if len(sites) == 1:
        mean = next(harvest.batches(0, harvest.batch_rows)).x.float().mean(0)
        sae.b_enc.copy_(-mean @ sae.W_enc)
    card = Card(
        model=lm.provenance(),
        pair=pair,
        rules=harvest.rules,
        corpus=stream.provenance(),
        n_ctx=stream.n_ctx,
        bos=True,
        tokens=0,
        run={"model": lm.name, "corpus": stream.corpus.to_dict()},
        scalings={str(s): both for s, both in harvest.scalings.items()},
    )
    TrainedSAE(sae, card).save(folder)
    return saekit.load(folder, scaled=len(sites) > 1)


def _clock():
    return time.perf_counter(), time.process_time()


def _since(began):
    return [now - then for now, then in zip(_clock(), began, strict=True)]


def index_part(sizes, folder, *, quick):
    """Return seconds of an index and of a bare pass over the same tokens."""
    import torch

    import saekit
    from saekit.activations.harvest import Harvest
    from saekit.activations.passes import pass_rows

    lm = tiny() if quick else saekit.load_model("smollm2-135m")
    stream = rows_of(lm, sizes["n_ctx"], packaged=not quick)
    site = "L1.resid_post" if quick else "L10.resid_post"
    loaded = random_sae(lm, stream, [site], sizes["d_sae"], folder / "indexed")
    n_rows = -(-sizes["tokens"] // sizes["n_ctx"])
    batch = pass_rows(lm, sizes["n_ctx"])

    @torch.no_grad()
    def bare(first, n):
        harvest = Harvest(
            lm, stream, loaded.card.pair, None, batch_rows=batch, fitted=loaded.card.rules
        )
        return sum(loaded.sae.encode(a.x.float()).n_rows for a in harvest.batches(first, n))

    bare(0, 2 * batch)  # warms up
    half = n_rows // 2 // batch * batch
    began = _clock()
    bare(0, half)
    one = _since(began)
    began = _clock()
    made = saekit.index(folder / "indexed", lm, tokens=sizes["tokens"], shown=False)
    whole = _since(began)
    began = _clock()
    bare(half, n_rows - half)
    both = [a + b for a, b in zip(one, _since(began), strict=True)]
    return {
        "model": lm.name,
        "tokens": made.n_tokens,
        "bare seconds": both[0],
        "bare CPU seconds": both[1],
        "index seconds": whole[0],
        "index CPU seconds": whole[1],
        "index over bare": whole[0] / both[0],
        "index over bare, CPU": whole[1] / both[1],
        "index bytes": sum(f.stat().st_size for f in made.folder.iterdir() if f.is_file()),
    }


def tiny(tokenizer=None):
    """Return a tiny model, over bytes or over the tokens of another."""
    from saekit.models.hf import HFModel
    from saekit.models.tiny import tiny as over_bytes

    if tokenizer is None:
        return over_bytes()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.vocab_size, **sizes, **heads))
    return HFModel(module, tokenizer, name="tiny over words", revision="seed 0")


def _embedded_tokenizer(*, quick):
    if quick:
        return None
    import saekit

    return saekit.load_model("smollm2-135m").tokenizer


@contextlib.contextmanager
def examples_of(n):
    """Have an index keep `n` examples a latent, by a longer band of the strongest."""
    from saekit.analysis import examples

    usual = examples.TOP + 4 * examples.QUARTER
    usual += examples.RANDOM + examples.BOUNDARY + examples.NEGATIVE
    before = examples.TOP
    examples.TOP += n - usual
    try:
        yield
    finally:
        examples.TOP = before


def make_pages(sizes, folder, *, quick):
    """Make the indexes that are served: copies of one, and a wide one; return their figures."""
    import saekit

    lm = tiny(_embedded_tokenizer(quick=quick))
    first, served = folder / "one" / "sae0", folder / "served"
    random_sae(lm, rows_of(lm, 128), ["L0.resid_post"], sizes["d_sae"], first)
    began = time.perf_counter()
    with examples_of(sizes["examples"]):
        made = saekit.index(first, lm, tokens=sizes["tokens"], shown=False)
    figures = {"index of pages, seconds": time.perf_counter() - began}
    files = {f.name: f.stat().st_size for f in made.folder.iterdir() if f.is_file()}
    counts = [sum(map(len, made.record(i)["examples"].values())) for i in range(0, made.d_sae, 97)]
    for i in range(N_SAES - 1):
        shutil.copytree(first, served / f"sae{i}")
    narrow = tiny()
    random_sae(narrow, rows_of(narrow, 128), ["L1.resid_post"], sizes["wide"], served / "wide")
    began = time.perf_counter()
    saekit.index(served / "wide", narrow, tokens=20_000, shown=False)
    return figures | {
        "wide index, seconds": time.perf_counter() - began,
        "tokens": made.n_tokens,
        "index bytes": sum(files.values()),
        "index bytes by file": files,
        "examples a latent": statistics.mean(counts),
    }


def export_part(folder):
    """Return what a latent costs in a site."""
    from saekit.explorer.export import export_site

    began = time.perf_counter()
    made = export_site(folder / "one", folder / "site", shown=False)
    seconds, n = time.perf_counter() - began, sum(made.saes.values())
    return {
        "export bytes a latent": made.parts["latents"] / n,
        "export ms a latent": 1000 * seconds / n,
        "export bytes": made.parts,
    }


class Served:
    """`saekit serve` on a folder, as a process of its own.

    Attributes:
        seconds: from its start until the page, its files and the library had come.
        assets: bytes of the page and its files, compressed one by one.
    """

    def __init__(self, folder, work):
        self.began = time.perf_counter()
        words = ["serve", str(folder), "--port", "0", "--json", "--token-file", str(work / "token")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "saekit", *words], stdout=subprocess.PIPE, text=True
        )
        said = json.loads(self.process.stdout.readline())
        self.host = urlsplit(said["address"]).netloc
        self.token = (work / "token").read_text(encoding="utf-8").strip()
        mine = self.client()
        page = mine.get("/", api=False)
        files = {"/": page}
        left = re.findall(rb'(?:href|src)="(/web/[^"]+)"', page)
        while left:  # as a browser does: what a script imports comes after it
            path = left.pop().decode()
            if path not in files:
                files[path] = mine.get(path, api=False)
                if path.endswith(".js"):
                    found = re.findall(rb'from "\./([^"]+)"', files[path])
                    left += [b"/web/" + name for name in found]
        self.library = json.loads(mine.get("/library"))
        self.seconds = time.perf_counter() - self.began
        self.assets = sum(len(gzip.compress(data)) for data in files.values())

    def client(self):
        return Client(self)

    def peak_bytes(self):
        """Return the largest resident size of the server so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))

    def cpu_seconds(self):
        """Return the processor time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)


class Client:
    """A connection to a server that stays open."""

    def __init__(self, served):
        self.connection = http.client.HTTPConnection(served.host, timeout=120)
        self.headers = {"Authorization": f"Bearer {served.token}", "X-Saekit": "1"}

    def get(self, path, *, api=True):
        return self._ask("GET", path, api)

    def post(self, path, value):
        return self._ask("POST", path, True, json.dumps(value))

    def _ask(self, method, path, api, body=None):
        headers = self.headers | ({"Content-Type": "application/json"} if body else {})
        self.connection.request(method, f"/api/v1{path}" if api else path, body, headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data


def latent_times(served, names, sizes, n_clients, look=0.0):
    """Return seconds of each page of a latent, its panels in it, and its bytes."""
    until, lock = time.perf_counter() + sizes["seconds"], threading.Lock()
    times, failed, n_bytes = [], [], []

    def reader(seed):
        chance, client = random.Random(seed), served.client()
        time.sleep(look * chance.random())  # readers do not all come in the same instant
        try:
            while time.perf_counter() < until:
                name, latent = quote(chance.choice(names)), chance.randrange(sizes["d_sae"])
                began = time.perf_counter()
                data = client.get(f"/saes/{name}/latents/{latent}")
                with lock:
                    times.append(time.perf_counter() - began)
                    n_bytes.append(len(data))
                time.sleep(look * chance.uniform(0.5, 1.5))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"A client failed: {failed[0]!r}")
    return times, statistics.mean(n_bytes)


def _p95(values):
    return statistics.quantiles(values, n=20)[-1]


def pages_part(sizes, folder, *, quick):
    """Return figures of the served pages."""
    figures = make_pages(sizes, folder, quick=quick) | export_part(folder)
    with Served(folder / "served", folder) as served:
        ids = [card["id"] for card in served.library["saes"]]
        wide = next(name for name in ids if "wide" in name)
        others = [name for name in ids if name != wide]
        client = served.client()
        for name in others:  # each index is opened, its files' sums compared
            client.get(f"/saes/{quote(name)}/latents/0")
        alone, _ = latent_times(served, others, sizes, 1)
        looked, n_bytes = latent_times(served, others, sizes, sizes["clients"], LOOK)
        cpu = served.cpu_seconds()
        times, _ = latent_times(served, others, sizes, sizes["clients"])
        cpu = served.cpu_seconds() - cpu
        path = f"/saes/{quote(wide)}/latents?limit=50&where={quote(COLUMNS)}"
        asked, found, client = [], {}, served.client()  # a server ends connections that wait
        for _ in range(12):
            began = time.perf_counter()
            found = json.loads(client.get(path))
            asked.append(time.perf_counter() - began)
        return figures | {
            "SAEs": len(ids),
            "first page, seconds": served.seconds,
            "assets, bytes compressed": served.assets,
            "latent, ms, one client": 1000 * statistics.median(alone),
            "latent p95, ms": 1000 * _p95(looked),
            "latent median, ms": 1000 * statistics.median(looked),
            "latent p95, ms, without looking": 1000 * _p95(times),
            "latents a second, without looking": len(times) / sizes["seconds"],
            "latent, CPU ms of the server": 1000 * cpu / len(times),
            "record, bytes": n_bytes,
            "query, ms": 1000 * statistics.median(asked[2:]),
            "query, ms, the first": 1000 * asked[0],
            "query, latents found": found["total"],
            "server peak, bytes": served.peak_bytes(),
        }


def prompt_part(sizes, folder, *, quick):
    """Return how long prompts take as jobs of a server."""
    import saekit
    from saekit.models.site_patterns import expand_sites
    from saekit.models.tiny import save_tiny

    model = str(save_tiny(folder / "llama", n_layers=30)) if quick else "smollm2-135m"
    lm = saekit.load_model(model)
    stream = rows_of(lm, 128)
    sites = [str(site) for site in expand_sites(["L*.resid_post"], lm)]
    random_sae(lm, stream, sites, sizes["d_sae"], folder / "folded" / "sae")
    rows = next(stream.rows(sizes["prompts"] + 1)).tokens[:, 1 : sizes["tokens"]]
    texts = [lm.tokenizer.decode(row) for row in rows.tolist()]
    del lm
    with Served(folder / "folded", folder) as served:
        name, client = served.library["saes"][0]["id"], served.client()
        times, n_bytes, tokens = [], [], []
        for text in texts:
            began = time.perf_counter()
            asked = {"kind": "prompt", "sae": name, "text": text}
            job = json.loads(client.post("/jobs", asked))["id"]
            while (found := json.loads(data := client.get(f"/jobs/{job}")))["state"] != "done":
                if found["state"] in ("failed", "cancelled"):
                    raise SystemExit(f"The prompt failed: {found['error']}")
                time.sleep(0.02)
            times.append(time.perf_counter() - began)
            n_bytes.append(len(data))
            tokens.append(len(found["result"]["tokens"]))
    return {
        "model": model if not quick else "tiny",
        "layers": len(sites),
        "tokens of a prompt": statistics.mean(tokens),
        "prompt, seconds, the first with the model": times[0],
        "prompt, seconds": max(times[1:]),
        "prompt, seconds, median": statistics.median(times[1:]),
        "prompt reply, bytes": max(n_bytes),
    }


LIMITS = {  # figure: the most in full, and in quick form
    "index": {"index over bare": (1.3, 40)},
    "pages": {
        "index bytes": (20e6, 20e6),
        "first page, seconds": (2, 20),
        "latent p95, ms": (100, 1500),
        "query, ms": (200, 1500),
        "assets, bytes compressed": (250e3, 250e3),
        "server peak, bytes": (500e6, 500e6),
        "export bytes a latent": (20e3, 20e3),
        "export ms a latent": (10, 200),
    },
    "prompt": {"prompt, seconds": (2, 20), "prompt reply, bytes": (100e3, 100e3)},
}


def floors_of(part, figures, *, quick):
    found = [
        Floor(name, figures.get(name), most=most[quick]) for name, most in LIMITS[part].items()
    ]
    if part == "pages":  # else the figures are of something smaller
        wanted = 30 if quick else 44
        found.append(Floor("examples a latent", figures["examples a latent"], least=wanted))
        found.append(Floor("SAEs", figures["SAEs"], least=N_SAES))
        found.append(Floor("query, latents found", figures["query, latents found"], least=1))
    if part == "prompt":
        found.append(Floor("tokens of a prompt", figures["tokens of a prompt"], least=90))
    return found


def main():
    parser = _command.parser_of(__doc__, "tiny models: below a minute")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    from saekit.core import machine

    machine.prepare()
    runs = {"index": index_part, "pages": pages_part, "prompt": prompt_part}
    figures, floors = {}, []
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="saekit-explorer-") as work:
            sizes = (SMALL if options.quick else FULL)[part]
            found = runs[part](sizes, Path(work).resolve(), quick=options.quick)
        print(f"\n{part}\n")
        for name, value in found.items():
            print(f"  {name:<44} {f'{value:,.4g}' if isinstance(value, float) else value}")
        figures[part] = found | {"sizes": sizes}
        floors += floors_of(part, found, quick=options.quick)
    print(f"\n{machine.describe()}", file=sys.stderr)
    sys.exit(_command.finish("explorer", options, {"figures": figures}, floors))


if __name__ == "__main__":
    main()
