"""`saekit explain`: a sentence that says when a latent is on, and how right it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.terminal.common_options import AsJson, Quiet, Seed
from saekit.terminal.generator_options import (
    BUDGET,
    PARTLY,
    BaseURL,
    ByModel,
    BySettings,
    LimitSettings,
    generator_of,
    limits_of,
    plan_lines,
)
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes
from saekit.terminal.settings_help import lists
from saekit.terminal.study_options import StudyOptions

if TYPE_CHECKING:
    from saekit.studies.explain.scorers.base import Scorer
    from saekit.studies.explain.scoring import Scored
    from saekit.studies.explain.study import Explained

app = typer.Typer(
    help="Have a language model explain latents in a line each, and score how right the lines are.",
    no_args_is_help=True,
)

Run = Annotated[Path, typer.Argument(help="Folder of a run or an SAE, or a published SAE's name.")]
Folder = Annotated[Path, typer.Argument(help="Folder that saekit explain run wrote.")]
NLatents = Annotated[
    int,
    typer.Option(
        "--latents",
        help="Number of latents to draw at random, from those that are on often enough.",
    ),
]
By = Annotated[
    str,
    typer.Option(
        "--by",
        help="What answers the requests: local (a model on this machine), endpoint (a "
        "server), or another (see: saekit list generators).",
    ),
]
Scorers = Annotated[
    list[str] | None,
    typer.Option(
        "--scorer",
        help="Scorer to use (see: saekit list scorers). Repeatable. [all but simulation]",
    ),
]
ScorerSettings = Annotated[
    list[str] | None,
    typer.Option("--scorer-set", help="A setting of a scorer, as detection.each=1. Repeatable."),
]
Again = Annotated[
    bool,
    typer.Option(
        "--again/--no-again",
        help="Ask the judge everything twice, to see how far it agrees with itself.",
    ),
]
Name = Annotated[str, typer.Option(help="Name for these scores. [the judge's name]")]


def _scorers(names: list[str] | None, settings: list[str] | None) -> "list[Scorer]":
    from saekit.core.config import override
    from saekit.core.errors import ConfigError
    from saekit.studies.explain.scorers.base import registry
    from saekit.studies.explain.scoring import DEFAULT

    used = list(names or DEFAULT)
    own: dict[str, list[str]] = {name: [] for name in used}
    for one in settings or []:
        name, dot, rest = one.partition(".")
        if not dot or name not in own:
            raise ConfigError(
                f"--scorer-set is SCORER.SETTING=VALUE, of a scorer that is used "
                f"({', '.join(used)}); got {one!r}."
            )
        own[name].append(rest)
    return [override(registry.get(name)(), own[name]) for name in used]


def _score_lines(found: "Scored") -> list[str]:
    from saekit.core.result import score_lines

    return [*score_lines(found.result.scores), f"table    {found.folder / 'explanations.csv'}"]


def _label_lines(found: "Explained") -> list[str]:
    wanting = len(found.cases) - len(found.labels)
    replies = ", ".join(f"{n} {verdict}" for verdict, n in found.verdicts.items() if n)
    return [
        *(f"{latent:>8}  {label}" for latent, label in found.labels.items()),
        f"latents  {len(found.cases)}, {wanting} without a usable explanation",
        f"replies  {replies or 'none'}",
    ]


def _end(found: "Explained", scored: "Scored | None") -> None:
    """Leave with the exit code of what was not done."""
    stopped = (scored.stopped if scored else "") or found.stopped
    if stopped:
        raise typer.Exit(BUDGET if stopped == "budget" else 1)
    if len(found.labels) < len(found.cases):
        raise typer.Exit(PARTLY)


def _stop_lines(found: "Explained", scored: "Scored | None") -> list[str]:
    why = (scored.reason if scored and scored.stopped else "") or found.reason
    return [f"stopped  {why}. Run the same command again to go on."] if why else []


@app.command("plan", cls=lists("saekit.studies.explain.study:Explain"))
@takes(StudyOptions, "study")
@takes(SAEOptions)
def plan(
    run: Run,
    latents: NLatents = 20,
    scorer: Scorers = None,
    scorer_set: ScorerSettings = None,
    again: Again = True,
    as_json: AsJson = False,
    *,
    study: StudyOptions,
    sae: SAEOptions,
) -> None:
    """Say how many requests a run would make and what they cost at most; nothing is sent.

    Example: saekit explain plan demo --by endpoint --limit usd_in=0.4 --limit usd_out=1.6
    """
    from saekit.hub.names import results_folder
    from saekit.studies.explain.scoring import estimate
    from saekit.studies.explain.study import Explain

    used, cfg = _scorers(scorer, scorer_set), study.config(Explain, latents)
    by, limits = study.generator(), study.limits()
    opened = sae.open(run, corpus=study.corpus, site=study.site)
    found = estimate(
        opened.loaded,
        opened.lm,
        by,
        study.out or results_folder(run) / "explain",
        cfg,
        text=(opened.text, study.part()),
        latents=study.latent,
        scorers=used,
        again=again,
        limits=limits,
        shown=not study.quiet,
    )
    lines = [
        f"explain  {found['explaining']:,} requests",
        f"judge    {found['judging']:,} requests",
        *plan_lines(found),
    ]
    emit(found, as_json=as_json, lines=lines)


@app.command("run", cls=lists("saekit.studies.explain.study:Explain"))
@takes(StudyOptions, "study")
@takes(SAEOptions)
def run_(
    run: Run,
    latents: NLatents = 20,
    scores: Annotated[
        bool,
        typer.Option(
            "--score/--no-score",
            help="Also score the explanations, with the same language model as judge.",
        ),
    ] = True,
    scorer: Scorers = None,
    scorer_set: ScorerSettings = None,
    again: Again = True,
    as_json: AsJson = False,
    *,
    study: StudyOptions,
    sae: SAEOptions,
) -> None:
    """Explain latents in a line each and score the lines; a run that was stopped continues.

    Exit codes: 0 done, 3 some latents without a usable explanation, 4 a limit reached.

    Example: saekit explain run demo --latents 10
    """
    from saekit.data import table_files
    from saekit.generators.cache import ReplyCache
    from saekit.hub.names import results_folder
    from saekit.studies.explain.scoring import score
    from saekit.studies.explain.study import Explain, explain

    used, cfg = _scorers(scorer, scorer_set), study.config(Explain, latents)
    who, limits, cache = study.generator(), study.limits(), ReplyCache()
    opened = sae.open(run, corpus=study.corpus, site=study.site)
    found = explain(
        opened.loaded,
        opened.lm,
        who,
        study.out or results_folder(run) / "explain",
        cfg,
        text=(opened.text, study.part()),
        latents=study.latent,
        limits=limits,
        cache=cache,
        shown=not study.quiet,
    )
    scored = None
    if scores and found.labels and not found.stopped:
        scored = score(
            found,
            who,
            scorers=used,
            again=again,
            seed=study.seed,
            limits=limits,
            spent=found.spent,
            cache=cache,
            shown=not study.quiet,
        )
        if study.out is None:  # next to the SAE, where the table of latents looks for columns
            table_files.write(scored.columns(), results_folder(run) / "analysis" / "explain")
    lines = [*_label_lines(found), *(_score_lines(scored) if scored else [])]
    notes = [*opened.notes, *found.notes]
    lines += [*note_lines(notes), f"folder   {found.folder}", *_stop_lines(found, scored)]
    record = _record(found, scored) | {"notes": notes}
    emit(record, as_json=as_json, lines=lines)
    _end(found, scored)


def _record(found: "Explained", scored: "Scored | None") -> dict[str, Any]:
    values = {n: s.value for n, s in scored.result.scores.items()} if scored else {}
    return {
        "folder": str(found.folder),
        "explanations": {str(k): v for k, v in found.labels.items()},
        "verdicts": found.verdicts,
        "scores": values,
        "stopped": (scored.stopped if scored else "") or found.stopped,
    }


@app.command("score")
def score_(
    folder: Folder,
    by: By = "local",
    by_model: ByModel = None,
    base_url: BaseURL = None,
    by_set: BySettings = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Score these explanations instead: JSON with the number of each latent "
            "and its text."
        ),
    ] = None,
    name: Name = "",
    scorer: Scorers = None,
    scorer_set: ScorerSettings = None,
    again: Again = True,
    limit: LimitSettings = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score explanations with another judge, or other explanations on the same texts.

    Example: saekit explain score demo/explain --scorer simulation --name simulated
    """
    from saekit.generators.cache import ReplyCache
    from saekit.studies.explain.scoring import score
    from saekit.studies.explain.study import read, read_labels

    found = read(folder)
    scored = score(
        found,
        generator_of(by, by_model, base_url, by_set),
        name,
        scorers=_scorers(scorer, scorer_set),
        labels=read_labels(labels) if labels else None,
        again=again,
        seed=seed,
        limits=limits_of(limit),
        cache=ReplyCache(),
        shown=not quiet,
    )
    lines = [*_score_lines(scored), *_stop_lines(found, scored)]
    emit(_record(found, scored), as_json=as_json, lines=lines)
    if scored.stopped:
        raise typer.Exit(BUDGET if scored.stopped == "budget" else 1)


@app.command("label")
def label_(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="File for the labels. [FOLDER/explorer_labels.json]")
    ] = None,
    name: Name = "local",
    least: Annotated[
        float,
        typer.Option(
            help="Only explanations whose detection score is at least this.", min=0, max=1
        ),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write explanations as labels that the explorer imports, with their scores in the notes.

    Example: saekit explain label demo/explain --least 0.7
    """
    from saekit.studies.explain.labels_file import write_labels
    from saekit.studies.explain.scoring import SCORES
    from saekit.studies.explain.study import read

    scores = folder / SCORES / name
    made = write_labels(read(folder), out, scores=scores if scores.is_dir() else None, least=least)
    emit({"file": str(made)}, as_json=as_json, lines=[f"labels   {made}"])


@app.command("rate")
def rate_(
    folder: Folder,
    rater: Annotated[
        str,
        typer.Option(
            "--by", help="Your name, under which verdicts are kept: letters, digits, - and _."
        ),
    ] = "me",
    task: Annotated[
        str,
        typer.Option(
            help="What you are asked: labels (is the explanation right?) or texts (does "
            "the latent fire on this?)."
        ),
    ] = "labels",
    latents: Annotated[int, typer.Option(help="Most latents to rate, drawn at random.")] = 20,
    export: Annotated[
        Path | None, typer.Option(help="Write your verdicts to this file, and ask nothing.")
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option("--import", help="Add the verdicts in this file, and ask nothing."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Rate explanations yourself, without seeing who made them; run it again to continue.

    Example: saekit explain rate demo/explain --by ana
    """
    import click

    from saekit.core.errors import ConfigError
    from saekit.core.files import write_json
    from saekit.studies.explain import rating
    from saekit.studies.explain.study import read

    if task not in rating.KEYS:
        raise ConfigError(f"--task is {' or '.join(rating.KEYS)}; got {task!r}.")
    which: rating.Task = "labels" if task == "labels" else "texts"
    listed = rating.items(read(folder), which, latents=latents, seed=seed)
    path = rating.place_of(folder, rater, which)
    if import_ is not None:
        found = rating.merged(path, rater, rating.read_ratings(import_), listed)
    elif export is not None and path.exists():
        found = rating.read_ratings(path)
    else:
        found = rating.rate(listed, path, rater, which, key=click.getchar, show=typer.echo)
    if export is not None:
        write_json(export, found.record(listed))
    record = {"rated": len(found.verdicts), "of": len(listed), "file": str(path)}
    lines = [f"rated    {len(found.verdicts)} of {len(listed)}", f"file     {export or path}"]
    emit(record, as_json=as_json, lines=lines)


@app.command("report")
def report(
    folder: Folder,
    name: Name = "",
    latents: Annotated[
        int,
        typer.Option(help="Number of latents that people rated, as given to saekit explain rate."),
    ] = 20,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show explanations with their scores, and how far judges and people agree.

    Example: saekit explain report demo/explain
    """
    from saekit.studies.explain.reporting import report as made

    found = made(folder, name, latents=latents, seed=seed)
    emit(found.record, as_json=as_json, lines=found.lines)
