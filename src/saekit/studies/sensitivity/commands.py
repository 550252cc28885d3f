"""`saekit sensitivity`: does a latent fire on newly written text of the same meaning?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.terminal.common_options import AsJson, Quiet
from saekit.terminal.generator_options import BUDGET, PARTLY, plan_lines
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes
from saekit.terminal.settings_help import lists
from saekit.terminal.study_options import StudyOptions

app = typer.Typer(
    help="Does a latent fire on newly written text of the same meaning?", no_args_is_help=True
)

Run = Annotated[Path, typer.Argument(help="Folder of a run or an SAE, or a published SAE's name.")]
Examples = Annotated[
    Path | None,
    typer.Option(
        help="Show the writer these examples: an ..._eval_results.json of SAEBench. "
        "[examples from the text]"
    ),
]
NLatents = Annotated[
    int,
    typer.Option(
        "--latents",
        help="Number of latents to draw at random, from those that are on often enough.",
    ),
]


def _defects(found: dict[str, int]) -> str:
    listed = ", ".join(f"{n} {kind}" for kind, n in found.items() if n)
    return f"published; {listed or 'nothing was lost'}"


def _floor_line(name: str, scores: dict[str, Any]) -> str:
    from saekit.core.result import Score

    if scores["reason"]:
        return f"{name.replace('_', ' ')}: {scores['reason']}"
    named = {
        key: Score(**scores[key]).text() for key in ("sensitivity", "sensitivity_all", "balanced")
    }
    return f"{name.replace('_', ' ')}: " + ", ".join(
        f"{key.replace('_', ' ')} {text}" for key, text in named.items()
    )


@app.command("plan", cls=lists("saekit.studies.sensitivity.study:Sensitivity"))
@takes(StudyOptions, "study")
@takes(SAEOptions)
def plan(
    run: Run,
    latents: NLatents = 50,
    examples: Examples = None,
    as_json: AsJson = False,
    *,
    study: StudyOptions,
    sae: SAEOptions,
) -> None:
    """Say how many requests a run would first make and what they cost at most; nothing is sent.

    Example: saekit sensitivity plan demo --by endpoint --limit usd_in=0.4 --limit usd_out=1.6
    """
    from saekit.hub.names import results_folder
    from saekit.studies.sensitivity.published_examples import read_published
    from saekit.studies.sensitivity.study import Sensitivity, estimate

    cfg, by, limits = study.config(Sensitivity, latents), study.generator(), study.limits()
    opened = sae.open(run, corpus=study.corpus, site=study.site)
    found = estimate(
        opened.loaded,
        opened.lm,
        by,
        study.out or results_folder(run) / "sensitivity",
        cfg,
        text=(opened.text, study.part()),
        latents=study.latent,
        limits=limits,
        published=None if examples is None else read_published(examples),
        shown=not study.quiet,
    )
    emit(found, as_json=as_json, lines=plan_lines(found))


@app.command("run", cls=lists("saekit.studies.sensitivity.study:Sensitivity"))
@takes(StudyOptions, "study")
@takes(SAEOptions)
def run_(
    run: Run,
    latents: NLatents = 50,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            "--floor",
            help="Floor to measure: shuffled_model, random_encoder or random_decoder, with "
            "=RUN for one that was trained. Repeatable. [all]",
        ),
    ] = None,
    floors: Annotated[
        bool,
        typer.Option(
            "--floors/--no-floors", help="Also measure SAEs that learned nothing, or not."
        ),
    ] = True,
    examples: Examples = None,
    as_json: AsJson = False,
    *,
    study: StudyOptions,
    sae: SAEOptions,
) -> None:
    """Have texts written like a latent's examples, and count on how many of them it fires.

    Exit codes: 0 done, 3 some latents without a usable text, 4 a limit reached.

    Example: saekit sensitivity run demo --latents 20
    """
    from saekit.core.errors import ConfigError
    from saekit.core.result import score_lines
    from saekit.data import table_files
    from saekit.generators.cache import ReplyCache
    from saekit.hub.names import results_folder
    from saekit.studies.sensitivity import floors as floor_saes
    from saekit.studies.sensitivity.published_examples import read_published
    from saekit.studies.sensitivity.study import Sensitivity, measure

    if floor and not floors:
        raise ConfigError("`--floor` names floors and `--no-floors` wants none; leave one out.")
    cfg, by, limits = study.config(Sensitivity, latents), study.generator(), study.limits()
    given = None if examples is None else read_published(examples)
    opened = sae.open(run, corpus=study.corpus, site=study.site)
    place = results_folder(run)
    found = measure(
        opened.loaded,
        opened.lm,
        by,
        study.out or place / "sensitivity",
        cfg,
        text=(opened.text, study.part()),
        latents=study.latent,
        limits=limits,
        cache=ReplyCache(),
        floors=floor_saes.named(floor or None, place, opened.loaded) if floors else None,
        published=given,
        shown=not study.quiet,
    )
    if study.out is None:  # next to the SAE, where the table of latents looks for columns
        table_files.write(found.columns(), place / "analysis" / "sensitivity")
    details, notes = found.result.details, [*opened.notes, *found.result.provenance["notes"]]
    without = sum(status != "ok" for status in found.latents.columns["status"])
    written = ", ".join(f"{n} {kind}" for kind, n in details["texts"].items() if n)
    lines = [
        *score_lines(found.result.scores),
        *(f"floor    {_floor_line(name, one)}" for name, one in details["floors"].items()),
        f"latents  {details['latents']}, {without} without a usable text",
        f"texts    {written or 'none'}",
        *([f"examples {_defects(given.defects)}"] if given else []),
        *note_lines(notes),
        f"table    {found.folder / 'feature_stats.csv'}",
    ]
    if details["stopped"]:
        lines.append(f"stopped  {details['reason']}. Run the same command again to go on.")
    record = {name: score.value for name, score in found.result.scores.items()}
    record |= {"folder": str(found.folder), "stopped": details["stopped"], "notes": notes}
    emit(record, as_json=as_json, lines=lines)
    if details["stopped"]:
        raise typer.Exit(BUDGET if details["stopped"] == "budget" else 1)
    if without:
        raise typer.Exit(PARTLY)


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")], as_json: AsJson = False
) -> None:
    """Show the scores of a run and its latents.

    Example: saekit sensitivity report demo/sensitivity
    """
    from saekit.core.result import score_lines
    from saekit.data import table_files
    from saekit.studies.sensitivity.figure_folder import result_of
    from saekit.studies.sensitivity.study import STATS

    result = result_of(folder)
    rows = list(table_files.rows(folder / f"{STATS}.csv"))
    record = {name: score.value for name, score in result.scores.items()}
    shown = ("feature_index", "generated_sensitivity", "original_sensitivity", "random_rate")
    lines = [*score_lines(result.scores), "  ".join(shown)]
    lines += ["  ".join(f"{row.get(name, ''):>{len(name)}.6}" for name in shown) for row in rows]
    emit(record | {"latents": len(rows)}, as_json=as_json, lines=lines)


@app.command("compare")
@takes(SAEOptions)
def compare_(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="Folder of an SAE that saekit sensitivity run measured."),
    ],
    b: Annotated[
        Path,
        typer.Argument(metavar="B", help="Folder of another such SAE, of the same language model."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [A/sensitivity/compare/B]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resampling for intervals.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Compare two SAEs on the texts that were written for the latents of both.

    Example: saekit sensitivity compare demo other
    """
    from saekit.core.result import score_lines
    from saekit.hub.names import results_folder
    from saekit.studies.sensitivity.compare import Side, compare

    opened = [sae.open(run) for run in (a, b)]
    sides = [
        Side(one.loaded, results_folder(run) / "sensitivity", str(run))
        for run, one in zip((a, b), opened, strict=True)
    ]
    place = out or sides[0].folder / "compare" / results_folder(b).name
    found = compare(sides[0], sides[1], opened[0].lm, place, seed=seed, shown=not quiet)
    record = {name: score.value for name, score in found.result.scores.items()}
    lines = [*score_lines(found.result.scores), f"table    {place / 'compare.csv'}"]
    emit(record | {"folder": str(place)}, as_json=as_json, lines=lines)


@app.command("figures")
def figures(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folders that saekit sensitivity run wrote."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write the figures to. [figures in the first folder]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw what one or several runs found, each figure with its numbers as CSV.

    Example: saekit sensitivity figures demo/sensitivity
    """
    from saekit.studies.sensitivity.figure_folder import draw_all

    made = draw_all(folders, out or folders[0] / "figures")
    emit(
        {"figures": [str(p) for p in made]}, as_json=as_json, lines=[f"figure   {p}" for p in made]
    )


@app.command("audit")
def audit(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="File for the page. [FOLDER/audit.html]")] = None,
    latent: Annotated[
        list[int] | None,
        typer.Option("--latent", help="Number of a latent to show. Repeatable. [all]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one page with every example, prompt, reply, verdict and hit of a run.

    Example: saekit sensitivity audit demo/sensitivity --out audit.html
    """
    from saekit.studies.sensitivity.audit import write_audit

    made = write_audit(folder, out or folder / "audit.html", latent or [])
    emit({"page": str(made)}, as_json=as_json, lines=[f"page     {made}"])
