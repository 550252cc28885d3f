"""What is given to saekit by users: for each kind a small whole one, and all that reads it."""

import functools
import hashlib
import json
import shutil
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from saekit.activations.cache.caching import Caching, write
from saekit.activations.cache.exchange import export_arrow
from saekit.activations.cache.store import Store
from saekit.activations.latents import LatentStore, LatentStoreWriter
from saekit.analysis.index_folder import Index
from saekit.core import sealed
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.core.npz import read_npz
from saekit.core.processes import Mesh
from saekit.core.result import Result, Score, Table
from saekit.core.torch_files import read_torch
from saekit.data import table_files
from saekit.data.arrow import open_arrow, read_arrow
from saekit.data.readers import read_texts
from saekit.data.tokenise import Rows
from saekit.evals import saebench
from saekit.evals.saebench import writing as saebench_files
from saekit.hub import native
from saekit.hub.formats.base import Format, FormatHints, make_card
from saekit.hub.formats.base import registry as layouts
from saekit.models.hf import load as load_model
from saekit.models.tiny import save_tiny, tiny
from saekit.report.page import write_report
from saekit.report.watch import dashboard, over, runs_in, state
from saekit.saes.batch_topk import BatchTopK
from saekit.studies.layers.examples import Examples
from saekit.studies.layers.lens import Lens
from saekit.studies.layers.sums import LayerSums
from saekit.studies.layers.survey import Survey
from saekit.studies.locality.events import event_files
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published import reading as published
from saekit.studies.locality.runs.journal import Journal
from saekit.studies.truth.model import files as truth_files
from saekit.studies.truth.model import published as truth_published
from saekit.studies.truth.model.base import TruthConfig
from saekit.training import checkpoint, record, sources
from saekit.training import sweep_loop as sweep
from saekit.training.loop import RUN, begun_with, begun_with_of, check
from saekit.training.parallel import checkpoint as parts
from saekit.training.run import Run
from tests import world
from tests.evals.test_saebench import PUBLISHED
from tests.fuzz.mutations import Tree
from tests.made_index import made_index


class Kind(NamedTuple):
    """One kind of input."""

    make: Callable[[Path], object]  # writes a whole one into a folder
    load: Callable[[Path], object]  # reads everything of it
    mend: Callable[[Tree], Tree] = lambda tree: tree  # makes checksums right again
    cost: int = 1  # how many times longer than most it takes


@functools.cache
def base() -> Path:
    """Return a folder for what several kinds are made of."""
    return Path(tempfile.mkdtemp(prefix="saekit-fuzz-"))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def changed(tree: Tree, name: str, change: Callable[[dict], object]) -> Tree:
    """Return files with a JSON object changed, or as they are where that is no longer possible."""
    try:
        raw = json.loads(tree[name])
        change(raw)
        return tree | {name: json.dumps(raw).encode()}
    except Exception:  # what was hurt cannot always be mended
        return tree


# SAEs


def make_native(folder: Path) -> None:
    cfg = BatchTopK(d_in=6, d_out=6, d_sae=12, k=2)
    sae = cfg.build(torch.Generator().manual_seed(0))
    hints = FormatHints(model="tiny", read=("L0.resid_post",))
    native.save(sae, make_card("saekit", hints), folder)


def mend_native(tree: Tree) -> Tree:
    name = "weights.safetensors"
    return changed(tree, "config.json", lambda r: r.update(weights_sha256=sha(tree[name])))


def load_sae(folder: Path) -> None:
    try:
        loaded = native.load(folder)
    except ConfigError:  # a layout that leaves k out asks for it
        loaded = native.load(folder, hints=FormatHints(k=3))
    cfg = loaded.sae.cfg
    loaded.sae.decode(loaded.sae.encode(torch.randn(3, *[3] * len(cfg.event), cfg.d_in)))


def sae_of(layout: Format) -> Kind:
    """Return the example of a format, in the folder below that its path may have to name."""
    with tempfile.TemporaryDirectory() as home:
        below = layout.example(Path(home)).relative_to(home)
    return Kind(layout.example, lambda folder: load_sae(folder / below))


# activations and indexes


@functools.cache
def small_store() -> Path:
    where = base()
    caching = Caching(
        model="tiny",
        sites=("L0.resid_post",),
        corpus=world.run(where).corpus,
        n_ctx=8,
        precision="int8w",
        shard_bytes=3000,
    )
    write(caching, tiny(), where / "cache", tokens=150, shown=False)
    return where / "cache"


def copied(source: Path, folder: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def load_store(folder: Path) -> None:
    store = Store.open(folder)
    store.text(0, store.n_rows)
    for site in store.sites:
        store.acts(site, 0, store.n_rows)
        store.norms(0, site)
        store.take(0, site, torch.tensor([0, 3]))
    store.damaged()


def mend_store(tree: Tree) -> Tree:
    lines = []
    for line in tree.get("shards.jsonl", b"").split(b"\n"):
        try:
            raw = json.loads(line)
            data = tree[raw["file"]]
            first = 8 + int.from_bytes(data[:8], "little")
            sums = {"header": sha(data[:first])}
            for name, part in json.loads(data[8:first]).items():
                if name != "__metadata__":
                    begin, end = part["data_offsets"]
                    sums[name] = sha(data[first + begin : first + end])
            line = json.dumps(raw | {"sha256": sums, "n_bytes": len(data)}).encode()
        except Exception:  # a line that was hurt stays as it is
            pass
        lines.append(line)
    tree = tree | {"shards.jsonl": b"\n".join(lines)}
    name = "channels.safetensors"
    return changed(tree, "manifest.json", lambda r: r.update(channels_sha256=sha(tree[name])))


def make_arrow(folder: Path) -> None:
    store = Store.open(small_store())
    export_arrow(store, folder / "a", list(store.sites)[0], shown=False)


def load_arrow(folder: Path) -> None:
    for part in read_arrow(open_arrow(folder / "a")):
        part.acts.sum()


def make_latents(folder: Path) -> None:
    writer = LatentStoreWriter(folder, n_ctx=8, d_sae=6, meta={"sae": "x"}, shard_tokens=16)
    g = torch.Generator().manual_seed(0)
    for first in range(0, 6, 3):
        tokens = torch.randint(0, 50, (3, 8), generator=g)
        rows = Rows(tokens, torch.zeros_like(tokens), first)
        row = torch.arange(first, first + 3).repeat_interleave(8)
        dense = torch.rand(24, 6, generator=g) * (torch.rand(24, 6, generator=g) < 0.3)
        writer.add(rows, row, torch.arange(8).repeat(3), Codes.from_dense(dense))
    writer.close()


def load_latents(folder: Path) -> None:
    store = LatentStore.open(folder)
    for shard in store.shards():
        shard.by_token().codes.rows()
        shard.by_latent().latents()
        shard.rows()
    store.events(1)
    store.rows(torch.tensor([store.first_row]))


def mend_latents(tree: Tree) -> Tree:
    def change(raw: dict) -> None:
        for part in (*raw["shards"], raw["totals"]):
            part["bytes"] = len(tree[part["file"]])

    return changed(tree, "manifest.json", change)


# truths and surveys


@functools.cache
def one_model():
    return tiny()


@functools.cache
def small_truth():
    return TruthConfig.from_dict({"n_features": 8, "d_model": 6}).build()


def make_published_truth(folder: Path) -> None:
    truth_published.save(small_truth(), folder)


def make_survey(folder: Path) -> None:
    sums = LayerSums([0, 1], 6)
    sums.n_tokens = 5
    examples = Examples(2, 6, n=2, before=1, after=1)
    examples.row[0, 0, 0] = 3
    made = Survey(["L0.resid_post", "L1.resid_post"], sums, examples, [(0, 4)], {}, {"seen": 3})
    made.save(folder)


def mend_survey(tree: Tree) -> Tree:
    def change(raw: dict) -> None:
        raw["sha256"] = {n: sha(tree[f"{n}.safetensors"]) for n in ("sums", "examples")}

    return changed(tree, "survey.json", change)


def make_lens(folder: Path) -> None:
    from saekit.core.files import write_tensors

    parts = {f"A_{i}": torch.zeros(4, 4) for i in range(2)}
    write_tensors(folder / "lens.safetensors", parts | {f"b_{i}": torch.ones(4) for i in range(2)})


# text and settings


def make_corpora(folder: Path) -> None:
    import zstandard

    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": f"words é {i}", "n": i}) + "\n" for i in range(20))
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (folder / "c.txt").write_text("one\n\ntwo é\n\nthree", encoding="utf-8")
    (folder / "d.csv").write_text('text,n\n"a, b",1\nc,2\n', encoding="utf-8")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"] * 5}), folder / "e.parquet")


def load_corpora(folder: Path) -> None:
    each(sorted(folder.iterdir()), lambda p: list(read_texts(p, "text", "\n\n")))


def each(paths: list[Path], read: Callable[[Path], object]) -> None:
    """Read all; the first refusal comes when all were read."""
    from saekit.core.errors import SaekitError

    refused = None
    for path in paths:
        try:
            read(path)
        except SaekitError as error:
            refused = error
    if refused is not None:
        raise refused


def make_settings(folder: Path) -> None:
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    raw = world.run(base()).to_dict()
    (folder / "a.json").write_text(json.dumps(raw))
    (folder / "b.yaml").write_text(yaml.safe_dump(raw))


def load_settings(folder: Path) -> None:
    from saekit.training.building import as_run
    from saekit.training.sources import read_run

    each(
        [folder / "a.json", folder / "b.yaml"],
        lambda path: as_run(read_run(path), one_model(), ["sae.k=3"]),
    )


# runs


def make_run(folder: Path) -> None:
    from saekit.core.files import write_json, write_text

    write_json(folder / "run.json", world.run(base()).to_dict())
    write_json(
        folder / "manifest.json",
        {
            "kind": "train",
            "status": "running",
            "model": tiny().provenance(),
            "config": {},
            "seconds": 3.0,
            "harvest": {"seen": 3},
            "corpus": {"name": "x"},
            "provenance": {"seed": 0, "libraries": {"torch": "2"}},
        },
    )
    steps = [
        {
            "kind": "step",
            "step": i,
            "tokens": 10 * i,
            "loss": 1 / (i + 1),
            "fvu": 0.5,
            "l0": 4.0,
            "dead": i,
            "lr": 0.1,
            "tokens_per_second": 100.0,
            "terms": {"mse": 0.1},
        }
        for i in range(6)
    ]
    write_text(folder / "log.jsonl", "".join(json.dumps(s) + "\n" for s in steps))
    scores = {"fvu": Score(value=0.2, low=0.1, high=0.3, n=5, unit="1", better="lower")}
    Result(
        name="core",
        version=1,
        config={"tokens": 3},
        scores=scores,
        details={"density_histogram": {"edges": [0.0, 1.0], "counts": [3]}},
        provenance={"a": 1},
    ).write(folder / "eval" / "core.json")
    made_index(folder / "index", ["a", " b", "<x>"], d_sae=3, n_examples=1)


def load_index(folder: Path) -> None:
    index = Index(folder)
    for latent in range(index.d_sae):
        index.record(latent)
        index.contexts(latent, "random")
    index.query("density>1 or token has 'a' sort -max, token limit 3")
    index.pieces([0, 1])
    assert index.latents.columns and index.columns and index.bands and index.made


def mend_index(tree: Tree) -> Tree:
    def change(raw: dict) -> None:
        for name, said in raw["files"].items():
            said["bytes"] = len(tree[name])
            said["sha256"] = sha(tree[name])
        raw.pop("seal", None)
        raw["seal"] = sealed._seal(raw)

    return changed(tree, "index.json", change)


def load_report(folder: Path) -> None:
    write_report(folder, folder / "page.html")


def load_watch(folder: Path) -> None:
    runs = runs_in(folder)
    for run in runs:
        dashboard(run)
    state(runs)
    over(runs)


def make_resume(folder: Path) -> None:
    make_run(folder)
    run = world.run(base())
    record.begin(folder / RUN, run.to_dict(), begun_with(run, one_model(), folder))


def load_resume(folder: Path) -> None:
    found = record.read(folder / RUN)
    raw = record.found_again(found.settings, folder, begun_with_of(found, folder))
    sources._cache_folder(folder)
    record.is_done(folder)
    Run.from_dict(raw)
    check(world.run(base()), one_model(), folder, True)


def make_sweep(folder: Path) -> None:
    from saekit.core.files import write_json

    run = world.run(base()).to_dict()
    write_json(folder / "sweep.json", {"kind": "sweep", "runs": {"a": run, "b": run}})
    make_run(folder / "a")


def load_sweep(folder: Path) -> None:
    load_watch(folder)
    runs = sweep.read(folder)
    sweep.summary(runs, folder)


def make_checkpoint(folder: Path) -> None:
    tensors = {"weights": {"W": torch.eye(3)}, "optimiser": {"W.m": torch.zeros(3, 3)}}
    for step in (5, 10):
        checkpoint.write(folder, checkpoint.State(step, tensors, {"stream": {"at": 3}}), "run")


def mend_checkpoint(tree: Tree) -> Tree:
    for name in [n for n in tree if n.endswith((checkpoint.MANIFEST, parts.COMMIT))]:
        home = name.rpartition("/")[0]

        def change(raw: dict, home: str = home, tree: Tree = tree) -> None:
            for group in raw["sha256"]:
                file = f"{home}/{group}".removesuffix(checkpoint.ENDING) + checkpoint.ENDING
                raw["sha256"][group] = sha(tree[file])

        tree = changed(tree, name, change)
    return tree


def make_parts(folder: Path) -> None:
    from saekit.core.files import write_json, write_tensors

    home = folder / checkpoint.name_of(5)
    sums = {}
    for i in range(2):
        name = f"part-{i:05d}.safetensors"
        shared = {"weights.b_dec": torch.zeros(4)} if i == 0 else {}
        write_tensors(
            home / name,
            shared
            | {
                "weights.W_enc": torch.ones(4, 3),
                "weights.b_enc": torch.ones(3),
                "counters.silent": torch.zeros(3),
                "optimiser.W_dec.m.turned": torch.ones(4, 3),
            },
        )
        sums[name] = sha((home / name).read_bytes())
    write_json(
        home / parts.COMMIT,
        {
            "step": 5,
            "run": "run",
            "sha256": sums,
            "values": {"stream": {}},
            "processes": 2,
            "latent": {n: i for i, n in enumerate(sums)},
            "latent_shards": 2,
            "torch": "2",
        },
    )


class _NoStream:
    """A stream that reads no text."""

    served_tokens = 0

    def batch(self):
        raise NotImplementedError

    def state(self):
        raise NotImplementedError

    def load(self, tensors, values):
        raise NotImplementedError


def load_parts(folder: Path) -> None:
    parts.newest(folder, "run", Mesh(), _NoStream())  # pyright: ignore[reportArgumentType]


# locality and others' programs


def make_torch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    J = np.linspace(0, 1, 4).astype(np.float32)
    torch.save(
        {
            "batch_results": [
                {
                    "batch_idx": 0,
                    "start_idx": 0,
                    "feature_entropies": {3: np.float32(1.5)},
                    "token_vector_entropy": 2.5,
                    "num_active_features": 1,
                    "feature_influences": {3: J},
                    "feature_activations": {3: 0.5},
                    "token_vector_influence": J,
                }
            ],
            "summary": {"layer": 3, "mean_feature_entropy": 1.5},
            "config": {"threshold": 0.0},
            "batch_start_indices": [0],
        },
        folder / "a.pt",
    )
    torch.save(
        {
            "feature_counts": torch.tensor([3.0, 0.0]),
            "frequencies": np.array([0.3, 0.0]),
            "feature_token_counts": [Counter({7: 2}), Counter()],
            "site": "x",
        },
        folder / "b.pt",
    )
    torch.save(OrderedDict(a=torch.eye(3).t(), b=torch.zeros(2, dtype=torch.bool)), folder / "c.pt")
    torch.save(torch.nn.Linear(2, 3).state_dict(), folder / "d.pt")


def load_torch(folder: Path) -> None:
    paths = sorted(folder.glob("*.pt"))
    each(paths, read_torch)
    each(paths[:2], published.read)


def make_locality(folder: Path) -> None:
    make_torch(folder / "pt")
    result = published.read(folder / "pt" / "a.pt")
    dataset.write(folder / "r", result)
    for path in (folder / "pt").iterdir():
        path.unlink()
    journal = Journal(folder / "j", {"a": 1}, resume=False)
    journal.put("u", {"x": np.arange(3.0), "t": np.array(["a", "é"])})
    np.savez_compressed(folder / "z.npz", a=np.zeros((2, 3), np.float16), b=np.array([True]))
    (folder / "ctx8.csv").write_text(
        "feature_id,event_idx,H_pos,peak_token_idx,peak_value,sum_J\n4,0,1.25,3,0.5,0.1\n"
    )
    np.savez(folder / "influences_ctx8.npz", **{"4_0": np.ones(3, np.float32)})
    table = Table(columns={"a": [1, 2], "b": ["x", None]}, units={"a": "bits"})
    table_files.write(table, folder / "t", "parquet")


def mend_locality(tree: Tree) -> Tree:
    return changed(tree, "r.json", lambda r: r.update(sha256=sha(tree["r.npz"])))


def load_locality(folder: Path) -> None:
    each([folder], lambda f: dataset.groups(dataset.read(f / "r")))
    each([folder], lambda f: Journal(f / "j", {"a": 1}, resume=True).get("u"))
    each([folder / "z.npz"], lambda p: read_npz(p, "fiubU"))
    each([folder], event_files.read)
    each([folder / "t.parquet"], lambda p: (list(table_files.rows(p)), table_files.read(p)))


def make_saebench(folder: Path) -> None:
    make_run(folder / "run")
    saebench.write(Result.read(folder / "run" / "eval" / "core.json"), folder)
    shutil.rmtree(folder / "run")
    (folder / f"theirs{saebench_files.END}").write_text(json.dumps(PUBLISHED))


KINDS: dict[str, Kind] = {
    "saekit": Kind(make_native, load_sae, mend_native),
    **{n: sae_of(layouts.get(n)()) for n in layouts.names() if n != "saekit"},
    "cache": Kind(lambda f: copied(small_store(), f), load_store, mend_store),
    "arrow": Kind(make_arrow, load_arrow),
    "codes": Kind(make_latents, load_latents, mend_latents),
    "index": Kind(
        lambda f: made_index(f, ["a", " b", "<x>"], d_sae=3, n_examples=1), load_index, mend_index
    ),
    "truth": Kind(lambda f: truth_files.save(small_truth(), f), truth_files.load),
    "published truth": Kind(make_published_truth, truth_files.load),
    "survey": Kind(make_survey, Survey.load, mend_survey),
    "lens": Kind(make_lens, lambda f: Lens.read(f / "lens.safetensors")),
    "corpora": Kind(make_corpora, load_corpora),
    "settings": Kind(make_settings, load_settings, cost=4),
    "report": Kind(make_run, load_report, cost=2),
    "watch": Kind(make_run, load_watch),
    "resume, 0.1.0": Kind(make_run, load_resume),
    "resume": Kind(make_resume, load_resume),
    "sweep": Kind(make_sweep, load_sweep),
    "checkpoint": Kind(make_checkpoint, lambda f: checkpoint.newest(f, "run"), mend_checkpoint),
    "parts": Kind(make_parts, load_parts, mend_checkpoint),
    "result": Kind(lambda f: make_run(f), lambda f: Result.read(f / "eval" / "core.json")),
    "saebench": Kind(make_saebench, saebench.read_all),
    "torch": Kind(make_torch, load_torch),
    "locality": Kind(make_locality, load_locality, mend_locality),
    "model": Kind(save_tiny, lambda f: load_model(str(f)), cost=30),
}
