"""`saekit published`: SAEs that others have published, by the names that commands take."""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit

SHOWN = 40
COLUMNS = 6  # of scores in a line


def published(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            help="Words that must occur in the name or the model, or in the name of a score."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only SAEs of models whose name contains this.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Only SAEs of this layer or site, as L12 or L12.resid_post.")
    ] = None,
    width: Annotated[
        str | None, typer.Option(help="Only SAEs with this many latents, as 16384 or 16k.")
    ] = None,
    l0: Annotated[
        str | None,
        typer.Option("--l0", help="Only SAEs with at most this L0, or in a range, as 20-60."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Also list the SAEs in this catalogue of your own. [$SAEKIT_CATALOGUE]"),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of SAEs, list the scores in SAEBench's result files: a file or folder. "
            "Repeatable."
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --scores: a run of yours whose results are listed too. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --scores: write all columns to this CSV.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help=f"List all, not only the first {SHOWN}.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List published SAEs, from SAELens' registry or your own catalogue, or published scores.

    Example: saekit published gemma-scope-2b --site L12 --width 16k
    """
    if scores:
        _scores(query or [], scores, run or [], out, every=every, as_json=as_json)
        return
    if run or out:
        from saekit.core.errors import ConfigError

        raise ConfigError("--run and --out go with --scores, which names SAEBench's files.")
    from saekit.hub.names.listing import published as look

    table = look(
        " ".join(query or []), model=model, site=site, width=width, l0=l0, catalogue=catalogue
    )
    rows = table.rows()
    lines = [_line(row) for row in (rows if every else rows[:SHOWN])]
    if len(rows) > len(lines):
        lines.append(f"and {len(rows) - len(lines):,} more (--all, or more words)")
    none = "No published SAE fits. Leave out a word or an option; --all without words lists all."
    emit({"published": rows}, as_json=as_json, lines=lines or [none])


def _line(row: dict[str, object]) -> str:
    said = {"model": row["model"], "site": row["site"], "width": row["width"], "L0": row["l0"]}
    words = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in said.items()
        if v is not None
    )
    return f"{row['name']}  ({words})"


def _scores(
    words: list[str],
    places: list[Path],
    runs: list[Path],
    out: Path | None,
    *,
    every: bool,
    as_json: bool,
) -> None:
    """List the scores in SAEBench's files, those of runs next to them."""
    from saekit.core.errors import FormatError
    from saekit.core.result import Result
    from saekit.data import table_files
    from saekit.evals.compare import aligned, number_text
    from saekit.evals.saebench import read_all, side_by_side
    from saekit.evals.saebench.writing import stem_of
    from saekit.hub.names import results_folder
    from saekit.report.origin import results_of

    if out is not None:
        table_files.check_file(out)
    found: dict[str, list[Result]] = {}
    for file, result in (one for place in places for one in read_all(place).items()):
        theirs = "saebench" in result.provenance  # and not a file that saekit wrote
        name = str(result.provenance.get("subject") or file) if theirs else stem_of(file)
        if all(word.lower() in name.lower() for word in words):
            same = {(one.name, one.version) for one in found.get(name, [])}
            name = f"{name} ({file})" if (result.name, result.version) in same else name
            found.setdefault(name, []).append(result)
    for folder in runs:
        if not (results := results_of(results_folder(folder))):
            raise FormatError(f"{folder} has no result in eval. Make one: saekit eval {folder}")
        found[str(folder)] = results
    table = side_by_side(found)
    lines: list[str] = []
    for evaluation in dict.fromkeys(n.partition("/")[0] for n in list(table.columns)[1:]):
        names = [n for n in table.columns if n.startswith(f"{evaluation}/")]
        rows = [r for r in table.rows() if any(r[n] is not None for n in names)]
        names = _chosen(evaluation, names)
        shown = rows if every else rows[:SHOWN]
        heads = ["sae", *(n.partition("/")[2] for n in names)]
        cells = [[r["sae"], *(number_text(r[n]) for n in names)] for r in shown]
        lines += [evaluation, *(f"  {line}" for line in aligned([heads, *cells]))]
        if len(rows) > len(shown):
            lines.append(f"  and {len(rows) - len(shown):,} more (--all)")
    if out is not None:
        table_files.write_file(table, out)
        lines.append(f"table    {out}")
    emit({"scores": table.rows()}, as_json=as_json, lines=lines or ["No result fits."])


def _chosen(evaluation: str, names: list[str]) -> list[str]:
    """Return the columns of an evaluation that a line has room for: its headline, or the first."""
    from saekit.evals.base import picked, registry

    own = evaluation.partition("@")[0]
    if own in registry.names():
        short = {name.partition("/")[2]: name for name in names}
        names = [short[one] for one in picked(registry.get(own).headline, short)] or names
    return names[:COLUMNS]
