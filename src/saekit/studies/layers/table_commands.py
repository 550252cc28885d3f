"""`saekit layers`: tables over several SAEs, examples as a list, and the stream without an SAE."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError, UnknownNameError
from saekit.core.folder_names import distinct_names
from saekit.hub.names import results_folder
from saekit.studies.layers.opening import Dtype, LensFile, lens_of, notes_on
from saekit.terminal.common_options import AsJson, Device, Quiet, SplitName
from saekit.terminal.output import emit, note_lines

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.studies.layers.survey import Survey


def tables(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or SAEs.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder to write layer_std.csv and mmcs.csv to.")],
    as_json: AsJson = False,
) -> None:
    """Write tables with a row for each SAE: spread of latents over layers, MMCS.

    The spread needs what `layers analyse` wrote; an SAE without it is named and left out of
    layer_std.csv.

    Example: saekit layers tables runs/x32-k16 runs/x32-k32 --out tables
    """
    from saekit.core.result import Table
    from saekit.hub.native import load
    from saekit.hub.shared import SharedSAE
    from saekit.studies.layers.figures import layer_std
    from saekit.studies.layers.geometry import legacy_mmcs, mmcs
    from saekit.studies.layers.survey import Survey

    names = dict(zip(runs, distinct_names(runs), strict=True))
    sums, about, rows, missing = {}, {}, [], []
    for run, name in names.items():
        loaded = load(run, scaled=True)
        shared = SharedSAE(loaded.sae, loaded.card)
        about[name] = shared.facts()
        directions = shared.sae.directions().detach()
        old = {f"legacy_{k}": v for k, v in legacy_mmcs(directions)._asdict().items()}
        rows.append({"sae": name, **about[name], **mmcs(directions)._asdict(), **old})
        if (results_folder(run) / "layers" / "survey.json").exists():
            found = Survey.load(results_folder(run) / "layers")
            sums[name] = found.sums
            about[name] |= {"lens": found.made_from["lens"] is not None}
        else:
            missing.append(run)
    written = [out / "mmcs.csv"]
    Table(columns={key: [row[key] for row in rows] for key in rows[0]}).write_csv(written[0])
    std = None
    if sums:
        std = layer_std.table(sums, about)
        written.append(out / "layer_std.csv")
        std.write_csv(written[1])
    lines = [
        f"  {'SAE':<32} {'latents':>9} {'k':>6} {'MMCS':>16} {'std over layers':>18}",
        *_lines(rows, None if std is None else std.rows()),
        *(f"no analysis of {run}. Make it: saekit layers analyse {run}" for run in missing),
        *(f"table    {path}" for path in written),
    ]
    record = {
        "tables": [str(p) for p in written],
        "mmcs": rows,
        "layer_std": [] if std is None else std.rows(),
        "not_analysed": [str(p) for p in missing],
    }
    emit(record, as_json=as_json, lines=lines)


def _lines(rows: list[dict[str, Any]], spread: list[dict[str, Any]] | None) -> Iterator[str]:
    """Yield a line an SAE, with 1.96 standard errors."""
    std = {row["sae"]: row for row in spread or ()}
    for row in rows:
        text = f"{row['mean']:.4g} ± {1.96 * row['sem']:.2g}"
        found = std.get(row["sae"])
        wide = "" if found is None else f"{found['mean']:.4g} ± {1.96 * found['sem']:.2g}"
        k = "" if row["k"] is None else f"{row['k']:g}"
        yield f"  {row['sae']:<32} {row['n_latents']:>9,} {k:>6} {text:>16} {wide:>18}"


def examples_(
    run: Annotated[Path, typer.Argument(help="Folder of a run or an SAE.")],
    latent: Annotated[
        list[int] | None,
        typer.Option(help="Number of a latent. Repeatable. [all, if --out is given]"),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Layer to list, as L3.resid_post. Repeatable. [all]")
    ] = None,
    survey: Annotated[
        Path | None, typer.Option(help="Folder that saekit layers analyse wrote. [RUN/layers]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model whose tokenizer shows the text. [the one of the analysis]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the examples to this file as JSON lines instead of listing them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the strongest contexts of latents, by layer.

    Example: saekit layers examples runs/mine --latent 120 --site L3.resid_post
    """
    from saekit.core.files import to_json_line, write_text
    from saekit.models.hf import load_tokenizer
    from saekit.models.sites import parse_site
    from saekit.studies.layers.survey import Survey

    folder = survey or results_folder(run) / "layers"
    if not (folder / "survey.json").exists():
        raise FormatError(f"{folder} holds no analysis. Make it: saekit layers analyse {run}")
    if latent is None and out is None and not as_json:
        raise ConfigError("Name latents to list with --latent, or a file for all with --out.")
    found = Survey.load(folder)
    sites = [str(parse_site(s)) for s in site or found.sites]
    for name in sites:
        if name not in found.sites:
            raise ConfigError(f"The analysis is of {', '.join(found.sites)}; got {name}.")
    made_from = found.made_from["model"]
    tokenizer = load_tokenizer(model or made_from["name"])
    if tokenizer.digest != made_from["tokenizer"]:
        raise FormatError(
            f"The tokenizer of {model or made_from['name']} is not the one that the analysis was "
            f"made with. Name the right model with --model, or make the analysis again."
        )
    records = list(_records(found, sites, latent, tokenizer.pieces))
    record: dict[str, Any] = {"examples": len(records)}
    lines: list[str] = []
    if out is not None:
        write_text(out, "".join(to_json_line(r) + "\n" for r in records))
        record |= {"file": str(out)}
        lines = [f"examples {out}: {len(records):,}"]
    else:
        record |= {"found": records}
        lines = list(_listed(records))
    emit(record, as_json=as_json, lines=lines)


def _records(
    found: "Survey", sites: list[str], latents: list[int] | None, pieces: Any
) -> Iterator[dict[str, Any]]:
    """Yield the examples of latents, by latent and layer, the strongest first.

    Raises:
        UnknownNameError: there is no such latent.
    """
    from saekit.studies.layers.prompt import example_records

    d_sae = found.sums.d_sae
    for one in latents or range(d_sae):
        if not 0 <= one < d_sae:
            raise UnknownNameError(f"There is no latent {one}; there are 0..{d_sae - 1}.")
        for site in sites:
            kept = found.examples.of(found.sites.index(site), one)
            for rank, example in enumerate(example_records(kept, pieces)):
                yield {"latent": one, "site": site, "rank": rank, **example}


def _listed(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yield lines for a reader: a head for each latent and layer, its token in brackets."""
    head = None
    for r in records:
        if (r["latent"], r["site"]) != head:
            head = (r["latent"], r["site"])
            yield f"latent {r['latent']} at {r['site']}"
        tokens = [f"[[{t}]]" if i == r["peak"] else t for i, t in enumerate(r["tokens"])]
        text = "".join(tokens).replace("\n", "↵").replace("\t", "⇥")
        yield f"  {r['strength']:>9.4g}  {text}"
    if head is None:
        yield "No example: these latents were never on at these layers, or none were kept."


def stream_(
    model: Annotated[
        str,
        typer.Option(
            help="Language model: a name on the Hugging Face hub, a folder, or an embedded model."
        ),
    ],
    corpus: Annotated[str, typer.Option(help="Text to read, named as for saekit train --corpus.")],
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="Layers to compare, at least two. Repeatable. [L*.resid_post]"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of text to read; they are read twice.")] = 2
    ** 14,
    split: SplitName = "test",
    n_ctx: Annotated[int, typer.Option("--n-ctx", help="Tokens in a row of text.")] = 128,
    bos: Annotated[
        bool, typer.Option("--bos/--no-bos", help="Begin each row of text with BOS, or not.")
    ] = True,
    max_norm: Annotated[
        float,
        typer.Option(help="Leave out vectors longer than this many times the median; 0 keeps all."),
    ] = 4.0,
    lens: LensFile = None,
    suffix: Annotated[
        str, typer.Option(help="Also draw the table, as svg, pdf or png. [only the table]")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("stream"),
    dtype: Dtype = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure how alike the residual stream of a token is at neighbouring layers; needs no SAE.

    Example: saekit layers stream --model EleutherAI/pythia-70m-deduped --corpus text.jsonl
    """
    import math

    from saekit.models.hf import load
    from saekit.models.site_patterns import expand_sites
    from saekit.models.sites import parse_site
    from saekit.studies.layers.stream import adjacent_cosines

    for name, value, least in (("tokens", tokens, 1), ("n-ctx", n_ctx, 2)):
        if value < least:
            raise ConfigError(f"`--{name}` must be at least {least}; got {value}.")
    lm = load(model, dtype=dtype or "auto", device=device)
    names = expand_sites(site or ["L*.resid_post"], lm)
    rows, rules = _text(lm, corpus, split, names, n_ctx=n_ctx, bos=bos, max_norm=max_norm or None)
    found = adjacent_cosines(
        lm,
        rows,
        rules,
        [parse_site(n) for n in names],
        n_rows=math.ceil(tokens / n_ctx),
        lens=lens_of(lens, lm),
        shown=not quiet,
    )
    written = [out / "adjacent_cosine.csv", out / "adjacent_cosine_norms.csv"]
    if suffix:
        from saekit.studies.layers.figures import adjacent_cosine

        drawn = out / f"adjacent_cosine.{suffix.lstrip('.')}"
        adjacent_cosine.draw(found, drawn, title=lm.name)
        written.insert(0, drawn)
    else:
        found.pairs.write_csv(written[0])
        found.norms.write_csv(written[1])
    pairs = found.pairs.columns
    lines = [f"  {'layers':<32} {'cosine, means off':>18} {'as they are':>12}"]
    for i, first in enumerate(pairs["site"]):
        centred, raw = pairs["cosine_mean"][i], pairs["uncentred_cosine_mean"][i]
        lines.append(f"  {first + ' ' + pairs['next'][i]:<32} {centred:>18.4f} {raw:>12.4f}")
    notes = notes_on(rows, tokens)
    lines += [f"  {found.n_tokens:,} tokens", *note_lines(notes)]
    lines += [f"written  {path}" for path in written]
    record = {
        "tokens": found.n_tokens,
        "pairs": found.pairs.rows(),
        "norms": found.norms.rows(),
        "notes": notes,
        "files": [str(p) for p in written],
    }
    emit(record, as_json=as_json, lines=lines)


def _text(
    lm: "LanguageModel",
    corpus: str,
    split: str,
    sites: list[str],
    *,
    n_ctx: int,
    bos: bool,
    max_norm: float | None,
) -> Any:
    """Return rows of a part of a text, and which tokens count, by its training part."""
    from saekit.activations.harvest import Harvest
    from saekit.activations.pairs import Pair
    from saekit.activations.rules import TokenRule
    from saekit.data.base import as_split
    from saekit.data.open import open_corpus
    from saekit.data.tokenise import TokenStream

    part = as_split(split)
    text = open_corpus(corpus)
    pair = Pair(read=tuple(sites), fold=len(sites) > 1)
    first = TokenStream(text, "train", lm.tokenizer, n_ctx=n_ctx, bos_each_row=bos)
    rules = Harvest(lm, first, pair, TokenRule(max_norm=max_norm)).rules
    return TokenStream(text, part, lm.tokenizer, n_ctx=n_ctx, bos_each_row=bos), rules
