"""`saekit truth`: synthetic models whose features are known, and what SAEs find of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError, MissingExtraError
from saekit.hub.names import results_folder
from saekit.terminal.common_options import AsJson, Device, Quiet, Seed
from saekit.terminal.output import emit
from saekit.terminal.resuming import goes_on
from saekit.terminal.settings_help import lists
from saekit.training.building import k_setting, put, short_digest

if TYPE_CHECKING:
    from saekit.core.result import Score
    from saekit.studies.truth.model.base import Truth
    from saekit.training.fit import Fit

app = typer.Typer(
    help="Synthetic data whose features are known: make it, train on it, measure SAEs on it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Commands that make a folder, and where when none is named; libraries needed at the end.
MAKES = {"make": "truths", "train": "runs"}
NEEDS = dict.fromkeys(("eval", "calibrate"), ("scipy", "truth"))

CELL = len("+0.00 [+0.00, +0.00]")  # of a table of rank correlations
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, of those listed below. Repeatable.")
]


@app.command("make", cls=lists("saekit.studies.truth.model.base:TruthConfig"))
def make(
    preset: Annotated[
        str | None, typer.Option(help="Named truth to start from (see: saekit list truths).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON or YAML file with the settings to start from.")
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the truth to. [truths/FEATURESxWIDTH]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a synthetic model with known features, called a truth.

    Example: saekit truth make --set n_features=256 --set d_model=128 --set firing.name=constant
    --set firing.rate=0.03 --out truths/small
    """
    from saekit.core.lock import made_whole
    from saekit.studies.truth.model.base import TruthConfig

    raw = _with_settings(_start(preset, config), settings or [])
    cfg = TruthConfig.from_dict(raw)
    folder = out or Path("truths") / (preset or f"{cfg.n_features}x{cfg.d_model}")
    with made_whole(folder, "saekit truth make") as part:
        truth = cfg.build()
        truth.save(part)
    on = features_on(truth)
    record = {"truth": str(folder), "n_features": cfg.n_features, "d_model": cfg.d_model}
    record |= {"l0": on, "notes": truth.notes}
    lines = [
        f"truth    {folder}",
        f"         {cfg.n_features:,} features in {cfg.d_model} dimensions, {on:.2f} on per sample",
        f"next     saekit truth train --truth {folder}",
    ]
    lines[2:2] = [f"note     {part}: {notes}" for part, notes in truth.notes.items()]
    emit(record, as_json=as_json, lines=lines)


@app.command(
    "train",
    cls=goes_on(lists("saekit.training.fit:Fit"), resume=("truth", "device", "quiet", "as_json")),
)
def train(
    truth: Annotated[Path, typer.Option(help="Folder that saekit truth make wrote.")],
    arch: Annotated[
        str, typer.Option(help="Architecture of the SAE (see: saekit list saes).")
    ] = "topk",
    d_sae: Annotated[
        int | None, typer.Option(help="Number of latents. [one for each feature]")
    ] = None,
    k: Annotated[
        float | None, typer.Option(help="Latents kept per sample. [as many as features are on]")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Number of samples to train on.")] = 1_000_000,
    seed: Seed = 0,
    settings: Settings = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue the run in this folder, with the settings it was begun with.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the run to. [runs/truth-NAME-ARCH-WIDTH-seedSEED-DIGEST]"
        ),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a sparse autoencoder on the samples of a truth.

    Example: saekit truth train --truth truths/small --arch batch_topk --out runs/small
    """
    from saekit.core.files import read_object
    from saekit.core.lock import claimed
    from saekit.models.placement import pick_device
    from saekit.studies.truth.training import fit_truth, identity
    from saekit.training import record
    from saekit.training.fit import Fit

    model = load_truth(truth)
    if resume is not None:
        if not (resume / "fit.json").exists():
            raise FormatError(f"{resume} holds no run to go on with: it has no fit.json.")
        if record.is_done(resume):
            with claimed(resume, "saekit truth train"):  # removes what a killed writer left
                raise ConfigError(
                    f"The run in {resume} is finished: its SAE is in {resume / 'sae'}."
                )
        fit, folder = Fit.from_dict(record.read(resume / "fit.json").settings), resume
    else:
        raw = {"tokens": tokens, "seed": seed, "sae": {"name": arch}}
        if d_sae is not None:
            raw["sae"]["d_sae"] = d_sae
        fit = as_fit(raw, model, k, settings or [])
        name = f"truth-{truth.name}-{fit.sae.name}-{fit.sae.d_sae}-seed{fit.seed}"
        folder = out or Path("runs") / f"{name}-{short_digest(fit.to_dict(), identity(model))}"
    where = pick_device(device)
    fit_truth(fit, model, out=folder, resume=resume is not None, device=where, shown=not quiet)
    seconds = read_object(folder / "manifest.json")["seconds"]
    made = {"run": str(folder), "sae": str(folder / "sae"), "seconds": seconds}
    lines = [f"SAE      {folder / 'sae'}", f"log      {folder / 'log.jsonl'}"]
    lines.append(f"next     saekit truth eval --truth {truth} --sae {folder}")
    emit(made, as_json=as_json, lines=lines)


@app.command("eval", cls=lists("saekit.studies.truth.evals.ground_truth:GroundTruth"))
def evaluate(
    truth: Annotated[Path, typer.Option(help="Folder that saekit truth make wrote.")],
    sae: Annotated[Path, typer.Option(help="Folder of a run or an SAE.")],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the result. [SAE/eval/ground_truth.json]")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Also write the cosines of latents with features to this CSV."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Also draw these cosines into this .svg, .pdf or .png, with a CSV next to it."
        ),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure which of a truth's features an SAE found.

    Example: saekit truth eval --truth truths/small --sae runs/small --figure similarity.svg
    """
    from saekit.analysis import similarity
    from saekit.core.config import override
    from saekit.core.result import score_lines
    from saekit.hub.index_manifest import INSIDE
    from saekit.hub.native import load
    from saekit.studies.truth.evals.ground_truth import GroundTruth
    from saekit.studies.truth.latents import write_index
    from saekit.studies.truth.training import Layout

    model = load_truth(truth)
    config = override(GroundTruth(), settings or [])
    loaded = load(sae)
    found = loaded.sae
    arrange = Layout.of(found.cfg, model).arrange if found.cfg.event else None
    result = config.run(found, model, arrange=arrange, seed=seed, shown=not quiet, name=str(sae))
    path = out or results_folder(sae) / "eval" / "ground_truth.json"
    result.write(path)
    record = {name: s.value for name, s in result.scores.items()} | {"result": str(path)}
    lines = score_lines(result.scores)
    if out is None:  # next to the SAE, where `saekit serve` and `saekit query` look
        try:
            table = write_index(loaded, result, results_folder(sae) / INSIDE)
            record["index"] = str(table)
            lines.append(f"latents  {table}")
        except MissingExtraError as error:
            lines.append(f"note     no table of latents was written: {error}")
    lines.append(f"result   {path}")
    if csv is not None or figure is not None:
        directions = found.directions().detach()
        while directions.ndim > 2:
            directions = directions[0]
        compared = similarity.compare({sae.name: directions}, model.features)
        if csv is not None:
            similarity.table(compared).write_csv(csv)
        if figure is not None:
            from saekit.studies.truth.figures import similarity as drawn

            drawn.draw(compared, figure)
    emit(record, as_json=as_json, lines=lines)


@app.command("calibrate", cls=lists("saekit.training.fit:Fit"))
def calibrate(
    truth: Annotated[
        list[Path], typer.Option(help="Folder that saekit truth make wrote. Repeatable.")
    ],
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="Architecture to train (see: saekit list saes). Repeatable. [topk, "
            "batch_topk, relu]"
        ),
    ] = None,
    k: Annotated[
        list[float] | None,
        typer.Option(
            help="Latents kept per sample. Repeatable. [half, 1 and 2 times as many as "
            "features are on]"
        ),
    ] = None,
    l1: Annotated[
        list[float] | None,
        typer.Option(help="l1_coefficient, for architectures without k. Repeatable. [1, 2 and 4]"),
    ] = None,
    d_sae: Annotated[
        int | None, typer.Option(help="Number of latents. [one for each feature]")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Number of samples to train each SAE on.")] = 500_000,
    eval_tokens: Annotated[int, typer.Option(help="Number of samples to measure each SAE on.")] = 2
    ** 14,
    seed: Seed = 0,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/calibration"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Test which scores rank SAEs correctly without knowing the features.

    Trains every architecture at every sparsity twice, from two seeds, on each truth, and
    writes calibration.json, saes.csv, ranks.csv, and validity.json: the ranks with the settings
    of each truth, as saekit has them packaged for `saekit eval --suite`.

    Example: saekit truth calibrate --truth truths/a --truth truths/b --arch topk --arch relu
    """
    from saekit.core.files import write_json
    from saekit.core.lock import made_whole
    from saekit.core.progress import Progress
    from saekit.core.provenance import collect
    from saekit.studies.truth import calibration

    if eval_tokens < 1:
        raise ConfigError(f"`--eval-tokens` must be at least 1; got {eval_tokens}.")
    with made_whole(out, "saekit truth calibrate") as part:
        jobs, truths = [], {}
        for folder in dict.fromkeys(truth):
            model = load_truth(folder)
            truths[folder.name] = model.cfg.to_dict()
            grid = _grid(model, arch or ["topk", "batch_topk", "relu"], k, l1)
            for label, raw, kept in grid:
                raw["sae"] |= {"d_sae": d_sae} if d_sae is not None else {}
                fits = [
                    as_fit({**raw, "tokens": tokens, "seed": s}, model, kept, settings or [])
                    for s in (seed, seed + 1)
                ]
                jobs.append((str(folder), label, model, fits))
            if len(grid) < calibration.LEAST_SAES:
                raise ConfigError(
                    f"Ranks need {calibration.LEAST_SAES} SAEs of each truth; got {len(grid)} from "
                    f"--arch, --k and --l1. Name more architectures or sparsities."
                )
        bar = Progress("calibrate", len(jobs), "SAEs", shown=not quiet)
        measured = []
        for folder, label, model, fits in jobs:
            measured.append(_measured((folder, label), model, fits, eval_tokens, seed))
            bar.add(1, label)
        bar.close()
        scores, made_from = calibration.rank_scores(measured), collect(seed)
        ranks = {n: {t: vars(s) for t, s in by.items()} for n, by in scores.items()}
        write_json(
            part / "calibration.json",
            {"saes": [m._asdict() for m in measured], "ranks": ranks, "provenance": made_from},
        )
        said = {key: made_from[key] for key in ("saekit", "command", "time")}
        validity = said | {"truths": truths, "saes": len(measured), "ranks": ranks}
        write_json(part / "validity.json", validity)
        calibration.as_table(measured).write_csv(part / "saes.csv")
        _rank_table(scores).write_csv(part / "ranks.csv")
    record = {n: {t: s.value for t, s in by.items()} for n, by in scores.items()}
    lines = [*_rank_lines(scores), f"result   {out / 'calibration.json'}"]
    emit({"ranks": record, "result": str(out)}, as_json=as_json, lines=lines)


@app.command("push")
def push(
    truth: Annotated[Path, typer.Option(help="Folder that saekit truth make wrote.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hugging Face hub, as OWNER/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Make it public. [private]")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a truth to the Hugging Face hub in the published layout.

    Example: saekit truth push --truth truths/small --repo me/small-truth
    """
    from saekit.studies.truth.model import push as pushing

    where = pushing.push(load_truth(truth), repo, private=not public)
    emit({"truth": str(truth), "at": where}, as_json=as_json, lines=[f"truth    {where}"])


def load_truth(folder: Path) -> "Truth":
    """Return the truth in a folder.

    Raises:
        FormatError: there is none.
    """
    from saekit.studies.truth.model.base import Truth

    if not folder.is_dir():
        raise FormatError(
            f"There is no folder {folder}. Make a truth first: saekit truth make --out {folder}"
        )
    return Truth.load(folder)


def as_fit(raw: dict[str, Any], truth: "Truth", k: float | None, settings: list[str]) -> "Fit":
    """Return how an SAE is fitted to a truth, with what is left out taken from the truth.

    Widths are the truth's; the SAE has a latent for each feature, and keeps as many per token
    as features are on, where its architecture has a number to keep.
    """
    from saekit.core.config import field_types, override, read_setting
    from saekit.saes.base import registry
    from saekit.studies.truth.calibration import whole
    from saekit.training.fit import Fit

    given = dict(read_setting(s) for s in settings)
    sae = {"d_in": truth.d_model, "d_out": truth.d_model, "d_sae": truth.n_features} | raw["sae"]
    for path, value in given.items():
        if path.startswith("sae."):
            put(sae, path.removeprefix("sae."), value)
    fields = field_types(registry.get(sae["name"]))
    if "site" in registry.get(sae["name"]).event:
        sae.setdefault("n_sites", 2 if truth.layers is None else truth.layers.shape[1])
    if "inner" in fields:
        sizes = {key: sae[key] for key in ("d_in", "d_out", "d_sae")}
        sae["inner"] = {"name": "topk"} | sizes | sae.get("inner", {})
    if k is not None:
        for path, value in map(read_setting, k_setting(sae["name"], k)):
            put(sae, path.removeprefix("sae."), value)
    else:
        at = whole(features_on(truth), sae["d_sae"])
        inner = sae.get("inner", sae)
        for name in {"k", "target_l0"} & field_types(registry.get(inner["name"])).keys():
            inner.setdefault(name, at)
    return override(Fit.from_dict({**raw, "sae": sae}), settings)


def features_on(truth: "Truth") -> float:
    """Return how many features are on in a sample."""
    return float(truth.rates.sum())


def _start(preset: str | None, config: Path | None) -> dict[str, Any]:
    if preset is not None and config is not None:
        raise ConfigError("Give --preset or --config, not both.")
    if preset is not None:
        from saekit.studies.truth.model.presets import preset as named

        return named(preset).to_dict()
    if config is None:
        return {"n_features": 256, "d_model": 128}
    from saekit.core.files import read_settings

    raw = read_settings(config)
    raw = raw.get("truth", raw) if isinstance(raw, dict) else raw  # also the file of a truth
    if not isinstance(raw, dict):
        raise ConfigError(f"{config} must be an object with n_features, d_model and so on.")
    return raw


def _with_settings(raw: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return a config's dict with settings applied; naming another variant empties its group."""
    from saekit.core.config import read_setting

    for path, value in map(read_setting, settings):
        group, _, last = path.rpartition(".")
        if last == "name" and group:
            put(raw, group, {"name": value})
        else:
            put(raw, path, value)
    return raw


Job = tuple[str, dict[str, Any], float | None]  # label, raw Fit, k


def _grid(
    truth: "Truth", archs: list[str], ks: list[float] | None, l1s: list[float] | None
) -> list[Job]:
    """Return every architecture at every sparsity."""
    from saekit.core.config import field_types
    from saekit.saes.base import registry
    from saekit.studies.truth.calibration import usual_sparsities, whole

    on = features_on(truth)
    found: list[Job] = []
    for arch in dict.fromkeys(archs):
        cls = registry.get(arch)
        if cls.event:
            raise ConfigError(
                f"`{arch}` codes {' and '.join(cls.event)} jointly, of which a truth has none; "
                f"calibrate architectures of single activations."
            )
        fields = field_types(cls)
        keeps = "k" in fields or "inner" in fields
        if keeps or "target_l0" in fields:
            for k in map(whole, ks) if ks else usual_sparsities(on):
                sae = {"name": arch} | ({} if keeps else {"target_l0": float(k)})
                found.append((f"{arch} {k}", {"sae": sae}, float(k) if keeps else None))
        else:
            for l1 in l1s or [1.0, 2.0, 4.0]:
                sae = {"name": arch, "l1_coefficient": l1}
                found.append((f"{arch} {l1:g}", {"sae": sae}, None))
    return found


def _measured(
    names: tuple[str, str], truth: "Truth", fits: list["Fit"], n_tokens: int, seed: int
) -> Any:
    from saekit.studies.truth import calibration
    from saekit.studies.truth.evals.ground_truth import GroundTruth
    from saekit.studies.truth.training import fit_truth

    config = GroundTruth(n_tokens=n_tokens, n_blocks=1)
    sae, twin = (fit_truth(fit, truth, shown=False) for fit in fits)
    scores = config.run(sae, truth, seed=seed, name=names[1]).scores
    recovery = {name: scores[name].value for name in ("mcc", "f1", "f1_all")}
    found = calibration.unsupervised(sae, twin, truth, n_tokens=n_tokens, seed=seed)
    return calibration.SAEScores(*names, found, recovery)


def _rank_table(scores: "dict[str, dict[str, Score]]") -> Any:
    from saekit.core.result import Table

    rows = [(n, t, s.value, s.low, s.high, s.n) for n, by in scores.items() for t, s in by.items()]
    names = ("score", "recovery", "rank_correlation", "low", "high", "saes")
    return Table(columns={name: [row[i] for row in rows] for i, name in enumerate(names)})


def _rank_lines(scores: "dict[str, dict[str, Score]]") -> list[str]:
    from saekit.studies.truth.words import label

    targets = {name: label(name) for name in next(iter(scores.values()))}
    first = max(len(label(name)) for name in scores)
    wide = {name: max(len(said), CELL) for name, said in targets.items()}
    heads = "  ".join(f"{said:<{wide[name]}}" for name, said in targets.items())
    lines = ["rank correlation over SAEs with, and its 95 % interval"]
    lines.append(f"  {'':<{first}}  {heads}".rstrip())
    for name, by in scores.items():
        cells = "  ".join(f"{_cell(by[t]):<{wide[t]}}" for t in targets)
        lines.append(f"  {label(name):<{first}}  {cells}".rstrip())
    return lines


def _cell(score: "Score") -> str:
    if score.value is None or score.low is None or score.high is None:
        return "undefined"
    return f"{score.value:+.2f} [{score.low:+.2f}, {score.high:+.2f}]"
