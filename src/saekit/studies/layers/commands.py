"""`saekit layers`: one SAE over many layers, where its latents live and what they do."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.names import results_folder
from saekit.studies.layers.opening import (
    LensFile,
    OpenOptions,
    RunFolder,
    Sites,
    lens_of,
    notes_on,
    opened,
)
from saekit.studies.layers.table_commands import examples_, stream_, tables
from saekit.terminal.common_options import AsJson, OtherCorpus, Quiet, SplitName
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.data.base import Corpus as Text
    from saekit.hub.shared import SharedSAE
    from saekit.studies.layers.survey import Survey
    from saekit.training.run import Run

app = typer.Typer(
    help="One SAE over many layers: at which layers each latent is on, figures, prompts.",
    no_args_is_help=True,
)
# Commands that make a folder, and where when none is named; libraries needed at the end.
MAKES: dict[str, str | None] = {"merge": None, "stream": "stream"}
NEEDS = {"figures": ("matplotlib", "figures")}


@app.command("analyse")
@takes(SAEOptions)
def analyse(
    run: RunFolder,
    tokens: Annotated[int, typer.Option(help="Tokens of text to read.")] = 100_000,
    first_row: Annotated[
        int,
        typer.Option(help="Row of the text to begin at, to divide a text between several runs."),
    ] = 0,
    examples: Annotated[
        int, typer.Option(help="Strongest contexts to keep for each latent and layer.")
    ] = 4,
    site: Sites = None,
    corpus: OtherCorpus = None,
    split: SplitName = "test",
    lens: LensFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [RUN/layers]")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Read a text and count how often and how strongly each latent is on at each layer.

    Example: saekit layers analyse runs/mine --tokens 1000000
    """
    from saekit.core.lock import claimed
    from saekit.studies.layers.survey import SurveyConfig, survey

    config = SurveyConfig(tokens=tokens, first_row=first_row, examples=examples)
    folder = out or results_folder(run) / "layers"
    how = OpenOptions(site, corpus, split, sae)
    with claimed(folder, "saekit layers analyse", "Nothing was analysed to its end."):
        shared, lm, stream = opened(run, how)
        found = survey(shared, lm, stream, config, lens=lens_of(lens, lm), shown=not quiet)
        where = "" if out is None else f" --survey {shlex.quote(str(out))}"
        more = how._replace(sites=None).typed() + where  # an analysis says its layers
        notes = notes_on(stream, tokens, first_row)
        _emit_survey(found, folder, f"{shlex.quote(str(run))}{more}", notes, as_json)


@app.command("merge")
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders that saekit layers analyse wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    as_json: AsJson = False,
) -> None:
    """Add up analyses of different rows of the same text.

    Example: saekit layers merge part0 part1 --out both
    """
    from saekit.core.lock import claimed
    from saekit.studies.layers.survey import Survey

    if len(parts) < 2:
        raise ConfigError(f"Name at least two analyses to merge; got {len(parts)}.")
    found = Survey.load(parts[0])
    for part in parts[1:]:
        found.merge(Survey.load(part))
    where = f"{shlex.quote(str(parts[0].parent))} --survey {shlex.quote(str(out))}"
    with claimed(out, "saekit layers merge"):
        _emit_survey(found, out, where, [], as_json)


@app.command("eval")
@takes(SAEOptions)
def evaluate(
    run: RunFolder,
    tokens: Annotated[int, typer.Option(help="Tokens to measure reconstruction on.")] = 2**15,
    ce_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of these that pass through the whole model, 4 + 3 x layers times; "
            "0 leaves out cross-entropy and KL."
        ),
    ] = 2**10,
    site: Sites = None,
    corpus: OtherCorpus = None,
    seed: Annotated[int, typer.Option(help="Kept in the result; nothing is drawn at random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="File for the result. [RUN/eval/by_layer.json]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Measure an SAE at every layer, on average, and with all layers replaced at once.

    Example: saekit layers eval runs/mine
    """
    from saekit.core.result import Table
    from saekit.evals.base import Subject, Tools
    from saekit.evals.core import Core
    from saekit.hub.opening import said_of
    from saekit.studies.layers.evals.by_layer import measure_by_layer

    core = Core(n_tokens=tokens, ce_tokens=ce_tokens)
    how = OpenOptions(site, corpus, "test", sae)
    shared, lm, stream = opened(run, how)
    subjects = [
        Subject(
            shared.at(s),
            lm,
            s,
            shared.written(s),
            shared.rule(s),
            str(s),
            write_rule=shared.written_rule(s),
        )
        for s in shared.sites
    ]
    result = measure_by_layer(subjects, core, Tools(stream.rows, seed, not quiet))
    said, notes = said_of(shared.card), result.provenance["notes"]
    said["notes"] = [*said["notes"], *notes]
    result = replace(result, provenance=result.provenance | said)
    path = out or results_folder(run) / "eval" / "by_layer.json"
    result.write(path)
    metrics = sorted({name.split("/")[1] for name in result.scores})
    ways = list(dict.fromkeys(name.split("/")[0] for name in result.scores))
    columns: dict[str, list[Any]] = {"site": ways}
    for metric in metrics:
        scores = [result.scores.get(f"{way}/{metric}") for way in ways]
        columns[metric] = [None if s is None else s.value for s in scores]
        columns[f"{metric}_low"] = [None if s is None else s.low for s in scores]
        columns[f"{metric}_high"] = [None if s is None else s.high for s in scores]
    Table(columns=columns).write_csv(path.with_suffix(".csv"))
    shown = ("fvu", "l0", "ce_rise", "kl", "kl_back", "dead")
    lines = ["  " + "".join(f"{name:>14}" for name in ("layer", *shown))]
    for i, way in enumerate(ways):
        cells = [columns[name][i] for name in shown]
        text = "".join(f"{'' if c is None else f'{c:.4g}':>14}" for c in cells)
        lines.append(f"  {way:>14}{text}")
    record = {"result": str(path), **{k: v.value for k, v in result.scores.items()}}
    lines += [*note_lines(notes), f"result   {path}"]
    emit(record | {"notes": notes}, as_json=as_json, lines=lines)


@app.command("baselines")
@takes(SAEOptions)
def baselines(
    run: RunFolder,
    site: Sites = None,
    corpus: OtherCorpus = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to train on at each layer; only for an SAE that saekit did not "
            "train. [as many as the shared SAE saw]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the SAEs to. [RUN/single]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Train an SAE for each single layer, on the same text, to compare with the shared one.

    Example: saekit layers baselines runs/mine --site L0,15,29.resid_post
    """
    from saekit.recipes.mlsae import single_layer
    from saekit.training.loop import train

    how = OpenOptions(site, corpus, "train", sae)
    shared, lm, stream = opened(run, how)
    asked = {"--tokens": tokens, "--corpus": corpus, "--n-ctx": sae.n_ctx, "--model": sae.model}
    if shared.card.run and any(value is not None for value in asked.values()):
        named = ", ".join(name for name, value in asked.items() if value is not None)
        raise ConfigError(
            f"An SAE of one layer is trained as {run} was, which says so itself; got {named}. "
            f"Leave it out."
        )
    whole = _trained(run, shared, lm.name, stream.corpus, tokens)
    folder = out or results_folder(run) / "single"
    made = {}
    for one in shared.sites:
        place = folder / str(one)
        if not (place / "sae" / "config.json").exists():
            begun = (place / "run.json").exists()  # by a command that was stopped
            train(single_layer(whole, str(one)), lm, place, resume=begun, shown=not quiet)
        made[str(one)] = str(place)
    where = "" if out is None else f" --singles {shlex.quote(str(out))}"
    following = f"saekit layers compare {shlex.quote(str(run))}{how.typed()}{where}"
    emit(
        {"baselines": made},
        as_json=as_json,
        lines=[*(f"SAE      {p}" for p in made.values()), f"next     {following}"],
    )


def _trained(
    run: Path, shared: "SharedSAE", model: str, corpus: "Text", tokens: int | None
) -> "Run":
    """Return how a shared SAE was trained; of one from elsewhere, how it could have been.

    Raises:
        ConfigError: the tokens of an SAE from elsewhere were not named.
    """
    from saekit.training.run import Run

    card = shared.card
    if card.run:
        return Run.from_dict(card.run)
    if tokens is None:
        raise ConfigError(
            f"{run} does not say how it was trained. Name the tokens of each layer that an SAE "
            f"of one layer is to be trained on: --tokens."
        )
    return Run(
        model=model,
        pair=card.pair,
        corpus=corpus,
        sae=shared.sae.cfg,
        n_ctx=card.n_ctx,
        bos=bool(card.bos),
        tokens=tokens * len(card.pair.read),
    )


@app.command("compare")
@takes(SAEOptions)
def compare_(
    run: RunFolder,
    singles: Annotated[
        Path | None, typer.Option(help="Folder with the SAEs of single layers. [RUN/single]")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of held-out text to measure on.")] = 2**14,
    site: Sites = None,
    corpus: OtherCorpus = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the table. [RUN/layers/compare.csv]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Compare a shared SAE with SAEs of single layers: FVU and directions, on the same tokens.

    Example: saekit layers compare runs/mine --site L0,15,29.resid_post
    """
    from saekit.hub.native import load
    from saekit.studies.layers.compare import compare

    how = OpenOptions(site, corpus, "test", sae)
    shared, lm, stream = opened(run, how)
    folder = singles or results_folder(run) / "single"
    found = {str(s): load(folder / str(s)) for s in shared.sites}
    table = compare(shared, found, lm, stream, tokens=tokens)
    path = out or results_folder(run) / "layers" / "compare.csv"
    table.write_csv(path)
    names = ("multi_fvu", "single_fvu", "single_in_multi", "multi_in_single", "same_run")
    lines = ["  " + "".join(f"{name:>17}" for name in ("layer", *names))]
    for i, one in enumerate(table.columns["site"]):
        cells = [table.columns[n][i] for n in names]
        text = [c if isinstance(c, bool) or c is None else f"{c:.4g}" for c in cells]
        lines.append(f"  {one:>17}" + "".join(f"{t!s:>17}" for t in text))
    notes = notes_on(stream, tokens)
    lines += [*note_lines(notes), f"table    {path}"]
    emit({"table": str(path), "notes": notes, **table.columns}, as_json=as_json, lines=lines)


@app.command("figures")
@takes(SAEOptions)
def figures(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or SAEs.", metavar="RUN")],
    survey: Annotated[
        Path | None,
        typer.Option(help="Folder that saekit layers analyse wrote, for one run. [RUN/layers]"),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Text for the heatmap of a prompt.")
    ] = "When Mary and John went to the store, John gave a drink to",
    tokens: Annotated[
        int, typer.Option(help="Tokens to measure the cosines between layers of the stream on.")
    ] = 2**14,
    suffix: Annotated[str, typer.Option(help="File type of figures: svg, pdf or png.")] = "svg",
    corpus: OtherCorpus = None,
    lens: LensFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the figures to. [RUN/layers/figures]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Draw every figure of an analysis, each with its numbers as CSV.

    Example: saekit layers figures runs/mine --suffix png
    """
    from saekit.studies.layers.figure_folder import draw_all
    from saekit.studies.layers.survey import Survey

    if len(runs) > 1 and (survey or out):
        raise ConfigError("`--survey` and `--out` are for one run; several have their own folders.")
    made: list[Path] = []
    notes: dict[str, None] = {}
    for run in runs:
        found = Survey.load(_analysed(survey or results_folder(run) / "layers", run))
        how = OpenOptions(found.sites, corpus, "test", sae)
        shared, lm, stream = opened(run, how)
        made += draw_all(
            found,
            shared,
            lm,
            stream,
            out or results_folder(run) / "layers" / "figures",
            prompt=prompt,
            tokens=tokens,
            suffix=suffix,
            lens=lens_of(lens, lm),
            shown=not quiet,
        )
        notes |= dict.fromkeys(notes_on(stream, tokens))
    record = {"figures": [str(p) for p in made], "notes": list(notes)}
    lines = [*(f"figure   {p}" for p in made), *note_lines(list(notes))]
    emit(record, as_json=as_json, lines=lines)


@app.command("prompt")
@takes(SAEOptions)
def prompt_(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="Text to look at.")],
    steer: Annotated[
        list[str] | None,
        typer.Option(
            help="Also show the logits with a latent's direction added: "
            "SITE:LATENT:FACTOR, as L3.resid_post:120:0.5, where FACTOR is in units "
            "of the mean norm at the site. Repeatable. [the strongest latents]"
        ),
    ] = None,
    survey: Annotated[
        Path | None,
        typer.Option(
            help="Folder that saekit layers analyse wrote, to show examples. [RUN/layers]"
        ),
    ] = None,
    payloads: Annotated[
        Path | None,
        typer.Option(
            help="Also write what MLSAE's web application would request, as one JSON file."
        ),
    ] = None,
    site: Sites = None,
    corpus: OtherCorpus = None,
    lens: LensFile = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the page. [RUN/layers/prompt.html]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Write one HTML page about a prompt: tokens, latents by layer, next tokens.

    Example: saekit layers prompt runs/mine "The capital of France is"
    """
    from saekit.core.files import write_json
    from saekit.studies.layers.payloads import answers
    from saekit.studies.layers.prompt import PromptReading, Steering
    from saekit.studies.layers.prompt_page import write_prompt_page
    from saekit.studies.layers.survey import Survey

    folder = survey or results_folder(run) / "layers"
    known = Survey.load(folder) if survey or (folder / "survey.json").exists() else None
    shared, lm, _ = opened(run, OpenOptions(site, corpus, "test", sae))
    reading = PromptReading(shared, lm, prompt, lens=lens_of(lens, lm))
    wanted = [Steering(*_steer(text)) for text in steer or []]
    path = write_prompt_page(
        reading,
        out or results_folder(run) / "layers" / "prompt.html",
        steered=wanted or None,
        survey=known,
    )
    record: dict[str, Any] = {"page": str(path), "bytes": path.stat().st_size}
    lines = [f"page     {path} ({record['bytes'] / 1e6:.1f} MB)"]
    if payloads is not None:
        write_json(payloads, answers(reading, wanted, known))
        record |= {"payloads": str(payloads)}
        lines.append(f"payloads {payloads}")
    emit(record, as_json=as_json, lines=lines)


app.command("tables")(tables)
app.command("examples")(examples_)
app.command("stream")(stream_)


def _analysed(folder: Path, run: Path) -> Path:
    if not (folder / "survey.json").exists():
        raise FormatError(f"{folder} holds no analysis. Make it: saekit layers analyse {run}")
    return folder


def _steer(text: str) -> tuple[str, int, float]:
    parts = text.rsplit(":", 2)
    try:
        site, latent, factor = parts
        return site, int(latent), float(factor)
    except ValueError as error:
        raise ConfigError(
            f"`--steer` reads LAYER:LATENT:FACTOR, as L3.resid_post:120:0.5; got `{text}`."
        ) from error


def _emit_survey(
    found: "Survey", folder: Path, drawn: str, notes: list[str], as_json: bool
) -> None:
    """Write an analysis with its tables, and say what it found.

    Args:
        found: the analysis.
        folder: where it goes.
        drawn: what to type after `saekit layers figures` to draw it.
        notes: what a reader of it must know.
        as_json: end with one line of JSON.
    """
    from saekit.core.files import write_json
    from saekit.core.stats.means import half_width
    from saekit.studies.layers.distributions import (
        distribution,
        latent_table,
        single_layer_share,
        site_table,
        spread,
    )
    from saekit.studies.layers.variances import decomposition, legacy_variances

    found.save(folder)
    sums = found.sums
    latent_table(sums, found.sites).write_csv(folder / "latents.csv")
    site_table(sums, found.sites).write_csv(folder / "layers.csv")
    one = distribution(sums.totals, sums.numbers)
    std, entropy = spread(one.std), spread(one.entropy.where(sums.totals.sum(0) > 0, float("nan")))
    split = decomposition(sums)
    single = single_layer_share(sums)
    record = {
        "analysis": str(folder),
        "tokens": sums.n_tokens,
        "alive": std.n,
        "layer_std": std._asdict(),
        "entropy": entropy._asdict(),
        "variances": split._asdict(),
        "legacy_variances": legacy_variances(sums)._asdict(),
        "single_layer_share": single,
        "seconds": found.counts["seconds"],
        "notes": notes,
    }
    write_json(folder / "summary.json", record)
    half = half_width(std.std, std.n)
    lines = [
        f"  {'tokens that count':<38} {sums.n_tokens:,}",
        f"  {'latents ever active':<38} {std.n:,} of {sums.d_sae:,}",
        f"  {'spread over layers (std), mean':<38} {std.mean:.4g} ± {half:.2g}",
        f"  {'entropy over layers, mean (nats)':<38} {entropy.mean:.4g}",
        f"  {'variance over layers':<38} {split.total:.4g}",
        f"  {'  between latents':<38} {split.between_latents:.4g}",
        f"  {'  between tokens of a latent':<38} {split.between_tokens:.4g}",
        f"  {'  within a token':<38} {split.within_token:.4g}",
        f"  {'tokens of a latent at one layer only':<38} {100 * single:.3g} %",
        *note_lines(notes),
        f"tables   {folder / 'latents.csv'}, {folder / 'layers.csv'}",
        f"next     saekit layers figures {drawn}",
    ]
    emit(record, as_json=as_json, lines=lines)
