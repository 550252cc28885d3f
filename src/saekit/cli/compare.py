"""`saekit compare`: is one SAE better than another, and how sure is that?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saekit.cli.sweep_folder import is_sweep, trained_runs
from saekit.terminal.common_options import AsJson, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.hub.opening import OpenSAE
    from saekit.models.base import LanguageModel


@takes(SAEOptions)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more SAEs: folders of runs or SAEs, or published SAEs' names. A sweep's "
            "folder is a group of SAEs."
        ),
    ],
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text to measure on, named as for saekit train --corpus; its held-out part is "
            "read. [the one the first was trained on]"
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Which site to use, if several share an SAE, as L3.resid_post."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Part of the text to measure on: test, or validation to choose between settings."
        ),
    ] = "test",
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to read; cross-entropy and KL are measured on a quarter of them. [65536]"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the comparison, as margin=0.05, of those listed below. Repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write the tables and the page to.")] = Path(
        "comparison"
    ),
    figure: Annotated[
        Path | None, typer.Option(help="Also draw scores against L0 into this .svg, .pdf or .png.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the resampled text that says how certain a place on the front of "
            "scores against L0 is."
        ),
    ] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Say which of two or more SAEs is better, by differences on the same tokens.

    Example: saekit compare runs/a runs/b
    """
    from saekit.core.config import override
    from saekit.core.errors import ConfigError
    from saekit.core.lock import claimed
    from saekit.core.writable import check_writable
    from saekit.data.base import as_held_out
    from saekit.evals.compare import CompareSettings, compare_open, lines
    from saekit.evals.core import Core
    from saekit.evals.evaluate import configured
    from saekit.report import style
    from saekit.report.l0_figure import draw
    from saekit.report.study_file import write_study

    core = configured("core", tokens, {})
    assert isinstance(core, Core)
    part = as_held_out(split)
    config = override(CompareSettings(core=core, seed=seed, split=part), settings or [])
    if figure is not None:
        style.check(figure.suffix)
        check_writable(figure)
    models: dict[str, LanguageModel] = {}
    groups = {str(run): trained_runs(run) if is_sweep(run) else [run] for run in runs}
    if len(groups) < len(runs):
        raise ConfigError(f"An SAE is named twice: {', '.join(map(str, runs))}. Name others.")
    every: list[OpenSAE] = []
    for folder in (one for group in groups.values() for one in group):
        found = sae.open(folder, corpus=corpus, site=site, models=models)
        # All are measured on one text: that of the first, where none was named.
        every.append(found._replace(text=every[0].text) if every else found)
    sizes = {name: len(group) for name, group in groups.items()}
    with claimed(out, "saekit compare", "Nothing was compared to its end."):
        result = compare_open(every, sizes, config, site=site, shown=not quiet)
        path = result.write(out)
        page = write_study(out, out / "report.html")
    drawn = [] if figure is None else [f"figure   {draw(result.saes, [*config.metrics], figure)}"]
    record = {"comparison": str(path), "report": str(page), "pairs": result.pairs.rows()}
    emit(
        record,
        as_json=as_json,
        lines=[*lines(result), f"result   {path}", f"report   {page}", *drawn],
    )
