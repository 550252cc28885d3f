"""`saekit cache`: activations on disk, to train on many times."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.terminal.common_options import AsJson, Corpus, Device, Dtype, Model, Quiet, Revision
from saekit.terminal.output import emit
from saekit.terminal.resuming import goes_on
from saekit.terminal.settings_help import lists

if TYPE_CHECKING:
    from saekit.activations.cache.caching import Caching
    from saekit.activations.cache.store import Store

app = typer.Typer(
    help="Activations on disk: write them once, train on them many times.", no_args_is_help=True
)

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting, as n_ctx=256 or rule.max_norm=6, of those listed below. "
        "Repeatable.",
    ),
]
Folder = Annotated[Path, typer.Argument(help="Folder of a cache.")]


@app.command(
    "write",
    cls=goes_on(
        lists("saekit.activations.cache.caching:Caching"),
        resume=("repair", "tokens", "device", "quiet", "as_json"),
        repair=("resume", "device", "quiet", "as_json"),
    ),
)
def write(
    model: Model = "smollm2-135m",
    revision: Revision = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Place in the model to store, as L3.resid_post. Repeatable. [resid_post of the "
            "layer a third of the way up]"
        ),
    ] = None,
    corpus: Corpus = "packaged",
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to write, counting those that the token rule keeps at every site. "
            "[1,000,000]"
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Number format to store in: float32, bfloat16, float16, float8 or int8w."
        ),
    ] = "bfloat16",
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the cache to. [caches/MODEL-SITE-DIGEST]")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            help="Continue the cache in this folder up to --tokens, with the settings it was begun "
            "with.",
        ),
    ] = None,
    repair: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            help="Write the damaged shards of the cache in this folder again, and nothing else.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a language model over a text and write its activations to disk.

    Example: saekit cache write --site L10.resid_post --tokens 2000000 --out caches/l10
    """
    from saekit.core.config import read_setting
    from saekit.training.write_cache import repair_cache, write_cache

    if resume is not None and repair is not None:
        raise ConfigError("Give --resume or --repair, not both.")
    if repair is not None:
        files = repair_cache(repair, device=device, shown=not quiet)
        mended = {"cache": str(repair), "rewritten": files}
        return emit(
            mended,
            as_json=as_json,
            lines=[f"rewritten {', '.join(files) or 'nothing was damaged'}"],
        )
    if resume is not None:
        store = write_cache(tokens=tokens, out=resume, resume=True, device=device, shown=not quiet)
    else:
        own = dict(map(read_setting, settings or []))
        own |= {} if revision is None else {"revision": revision}
        store = write_cache(
            model,
            site=site or None,
            corpus=corpus,
            tokens=tokens,
            precision=precision,
            out=out,
            device=device,
            dtype=dtype,
            shown=not quiet,
            **own,
        )
    folder = store.folder
    lines = [*_lines(store), f"next     saekit train --cache {folder}"]
    return emit(_record(store), as_json=as_json, lines=lines)


@app.command("info")
def info(folder: Folder, as_json: AsJson = False) -> None:
    """Say what a cache was made from, how large it is and how much rounding lost.

    Example: saekit cache info caches/l10
    """
    from saekit.activations.cache.store import Store

    store = Store.open(folder)
    emit(_record(store), as_json=as_json, lines=_lines(store))


@app.command("check")
def check(folder: Folder, as_json: AsJson = False) -> None:
    """Compare every byte of a cache with its checksums.

    Example: saekit cache check caches/l10
    """
    from saekit.activations.cache.store import Store

    store = Store.open(folder)
    damaged = store.damaged()
    record = {"cache": str(folder), "shards": len(store.records)}
    record |= {"damaged": [store.records[i].file for i in damaged]}
    n_whole = len(store.records) - len(damaged)
    lines = [*damaged.values(), f"whole    {n_whole} of {len(store.records)} shards"]
    emit(record, as_json=as_json, lines=lines)
    if damaged:
        raise FormatError(f"{len(damaged)} of {len(store.records)} shards are damaged.")


@app.command("export")
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    site: Annotated[str | None, typer.Option(help="Which site to export. [the only one]")] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="Name of the column with the activations. [TransformerLens' name of the site]"
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Number format to write in: float32 or float16.")
    ] = "float32",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one site of a cache in SAELens' layout (Arrow), for its trainer.

    Example: saekit cache export caches/l10 --out arrow/l10
    """
    from saekit.activations.cache.exchange import export_arrow
    from saekit.activations.cache.store import Store
    from saekit.models.sites import parse_site

    store = Store.open(folder)
    named = ", ".join(map(str, store.sites))
    if site is None and len(store.sites) > 1:
        raise ConfigError(f"The cache has {named}; name one with --site.")
    chosen = parse_site(site) if site else next(iter(store.sites))
    if chosen not in store.sites:
        raise ConfigError(f"The cache has {named}; got --site {site}.")
    n = export_arrow(store, out, chosen, column=column, dtype=dtype, shown=not quiet)
    emit({"out": str(out), "rows": n}, as_json=as_json, lines=[f"wrote    {out}: {n:,} rows"])


@app.command("import", cls=lists("saekit.activations.cache.caching:Caching"))
def import_(
    source: Annotated[Path, typer.Argument(help="Folder of activations that SAELens cached.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    site: Annotated[
        str, typer.Option(help="Site that the activations are from, as L3.resid_post.")
    ],
    corpus: Annotated[
        str, typer.Option(help="Text that they were made from, named as for saekit train --corpus.")
    ],
    model: Annotated[
        str, typer.Option(help="Language model that they were made with.")
    ] = "smollm2-135m",
    revision: Revision = None,
    column: Annotated[
        str | None, typer.Option(help="Name of the column with the activations. [the only one]")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            help="Compare the first rows with the model's own activations, and refuse if they "
            "differ."
        ),
    ] = True,
    precision: Annotated[
        str,
        typer.Option(
            help="Number format to store in: float32, bfloat16, float16, float8 or int8w."
        ),
    ] = "float32",
    settings: Settings = None,
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a cache from activations that SAELens cached.

    Example: saekit cache import activations/gpt2 --model gpt2 --site L8.resid_pre
    --corpus my_text.jsonl --out caches/gpt2
    """
    from saekit.activations.cache.exchange import import_arrow
    from saekit.data.arrow import open_arrow
    from saekit.models.hf import load

    table = open_arrow(source, column)
    lm = load(model, revision=revision, dtype=dtype, device="cpu")
    n_ctx = [f"n_ctx={table.n_ctx}"]
    spec = _spec(model, revision, [site], corpus, precision, n_ctx + (settings or []))
    store = import_arrow(source, out, spec, lm, column=column, compare=compare, shown=not quiet)
    off = store.manifest["imported"]["off_by_fvu"]
    checked = (
        "not compared with the model"
        if off is None
        else (f"the model's own first rows are off by {off:.1e} of the variance")
    )
    lines = [*_lines(store), f"compared {checked}", f"next     saekit train --cache {out}"]
    emit(_record(store), as_json=as_json, lines=lines)


def _spec(
    model: str,
    revision: str | None,
    sites: list[str],
    corpus: str,
    precision: str,
    settings: list[str],
) -> "Caching":
    from saekit.activations.cache.caching import Caching
    from saekit.core.config import override
    from saekit.data.open import open_corpus
    from saekit.training.record import absolute

    model = absolute({"model": model})["model"]
    base = Caching(model=model, revision=revision, sites=tuple(sites), corpus=open_corpus(corpus))
    return override(base, [f"precision={precision}", *settings])


def _record(store: "Store") -> dict[str, Any]:
    keys = ("config", "model", "rules", "added_fvu", "imported")
    return {
        "cache": str(store.folder),
        "sites": store.manifest["sites"],
        "rows": store.n_rows,
        "tokens": store.n_rows * store.n_ctx,
        "kept_tokens": store.n_kept,
        "bytes": store.n_bytes,
        "shards": len(store.records),
        "text_ended": store.ended,
        "identity": store.identity,
        "max_abs": store.max_abs,
        **{key: store.manifest[key] for key in keys},
    }


def _lines(store: "Store") -> list[str]:
    made = _record(store)
    lost = ", ".join(f"{s} {v:.1e}" for s, v in made["added_fvu"].items())
    sites = ", ".join(f"{s} [{w}]" for s, w in made["sites"].items())
    return [
        f"cache    {store.folder}: {made['bytes'] / 1e9:.3f} GB in {made['shards']} shards",
        f"model    {made['model']['name']} ({made['model']['dtype']})",
        f"sites    {sites}, as {store.precision}",
        f"tokens   {made['tokens']:,}, of which {made['kept_tokens']:,} count at every site",
        f"lost     share of variance, first rows: {lost}",
    ]
