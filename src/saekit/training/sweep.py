"""`saekit.sweep`: many SAEs that differ in some settings, in one call."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saekit.core.border import reading
from saekit.core.errors import ConfigError
from saekit.core.files import write_json
from saekit.core.result import Table
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.hf import load as load_model
from saekit.models.model_files import pinned
from saekit.training import sweep_loop
from saekit.training.building import short_digest, with_length
from saekit.training.run import Run
from saekit.training.sources import check_begun, check_model, given
from saekit.training.train import Architecture, Sites, Text, described
from saekit.training.variants import Vary, variants
from saekit.training.words import check_words, names_of, place_of


@dataclasses.dataclass(frozen=True)
class Sweep:
    """SAEs that were trained together. `sweep["k16-seed0"]` is one, `for name in sweep` all names.

    Args:
        folder: where their runs are.
        runs: by name, which is that of a folder there.
        failed: why training broke, by name.
    """

    folder: Path
    runs: Mapping[str, Run]
    failed: Mapping[str, str]

    def __getitem__(self, name: str) -> TrainedSAE:
        if name not in self.runs:
            raise KeyError(f"The sweep has no `{name}`; it has {', '.join(self.runs)}.")
        if name in self.failed:
            raise KeyError(f"The training of `{name}` broke: {self.failed[name]}")
        return load(self.folder / name)

    def __repr__(self) -> str:
        failed = f", of which {len(self.failed)} failed" if self.failed else ""
        return f"Sweep({str(self.folder)!r}: {len(self)} SAEs{failed})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def table(self) -> Table:
        """A row for each run: its status, and what the last steps of training said."""
        rows = sweep_loop.summary(self.runs, self.folder)
        names = ("name", "status", "fvu", "l0", "dead", "tokens")
        return Table(columns={name: [row.get(name) for row in rows] for name in names})

    def __str__(self) -> str:
        rows = self.table.rows()
        width = max(len(r["name"]) for r in rows)
        head = f"{'FVU':>7} {'L0':>7} {'dead':>6}   of the last steps of training"
        lines = [f"{'run':<{width}}  {'status':<10} {head}"]
        for r in rows:
            known = r["fvu"] is not None
            numbers = f"{r['fvu']:>7.4f} {r['l0']:>7.1f} {r['dead']:>6,}" if known else ""
            lines.append(f"{r['name']:<{width}}  {r['status']:<10} {numbers}".rstrip())
        lines += [f"failed   {name}: {why}" for name, why in self.failed.items()]
        return "\n".join(lines)


def sweep(  # noqa: PLR0913 - the words of `saekit sweep`
    lm: LanguageModel | str | None = None,
    vary: Vary | None = None,
    *,
    site: Sites | None = None,
    target: Sites | None = None,
    fold: bool = False,
    sae: Architecture | None = None,
    corpus: Text | None = None,
    tokens: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    run: Run | Path | str | None = None,
    runs: Mapping[str, Run] | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    shown: bool = True,
    **settings: Any,
) -> Sweep:
    """Train several SAEs on the same tokens of one text; the language model runs once.

    Sites, architectures, widths, rates and seeds may differ; model, text and length may not. Each
    run is what `train` would make of it, with the same weights, in a folder of its own. An SAE
    whose training breaks is left behind, and the others go on.

    Args:
        lm: the language model, or its name; None: smollm2-135m, or that of `run`.
        vary: settings with the values of each, as ``{"k": [16, 32], "seed": [0, 1]}``; all
            combinations are trained. `k`, `site`, `arch`, `d_sae`, `seed`, or another setting of
            `Run` by its dotted path, as "lr" or "sae.aux_k". Several sites together: "A+B".
        site: of all, as of `train`; so are `target`, `fold`, `sae`, `corpus`, `tokens`, `epochs`
            and `seed`.
        target: what to predict.
        fold: each site of a token is a row of its own.
        sae: the architecture with its settings, or its name.
        corpus: text.
        tokens: tokens of text that count.
        epochs: passes over them.
        seed: of all that do not vary in it.
        run: a whole description to vary, as of `train`.
        runs: runs by name, in place of all the above: a run for each SAE.
        out: the folder to make; None: one under ``runs``.
        resume: go on with the sweep in `out`, with the settings it was begun with.
        device: where a model that is named is loaded, as of `train`; so is `dtype`.
        dtype: its number format.
        shown: show progress on stderr.
        settings: any other setting of `Run`, the same for all.

    Returns:
        the sweep: `print` shows a line for each SAE, `sweep[name]` is one.

    Raises:
        ConfigError: nothing varies, a setting is unknown or out of range, or `out` is in use.
        DataError: the text is shorter than `tokens`, or activations are not finite.
    """
    words = given(
        site=names_of(site),
        target=names_of(target),
        fold=fold or None,
        sae=sae,
        corpus=corpus,
        tokens=tokens,
        epochs=epochs,
        seed=seed,
        run=run,
    )
    check_words(lm, words, settings, device=device, dtype=dtype)
    described_by_words = bool(words or settings or vary)
    if runs is not None or (resume and not described_by_words):
        if described_by_words:
            raise ConfigError("`runs` are whole descriptions. Leave the other settings out.")
        runs, model = _whole(runs, lm, out, device, dtype)
    else:
        runs, model = planned(
            lm, vary or {}, words, settings, device=device, dtype=dtype, shown=shown
        )
    folder = default_folder(runs, model) if out is None else place_of("out", out)
    failed = sweep_loop.sweep_runs(runs, model, folder, resume=resume, shown=shown)
    return Sweep(folder, dict(runs), failed)


def planned(
    lm: LanguageModel | str | None,
    vary: Vary,
    words: dict[str, Any],
    settings: dict[str, Any],
    *,
    device: str = "auto",
    dtype: str = "auto",
    shown: bool = True,
) -> tuple[dict[str, Run], LanguageModel]:
    """Return the runs of a sweep and their model; see `sweep` and `described`.

    Raises:
        ConfigError: nothing varies, or a setting is unknown or out of range.
    """
    if not vary and "run" not in words:
        raise ConfigError(
            "A sweep needs something that differs: vary={'k': [16, 32]}, on a command line --vary "
            "k=16,32. For one SAE: saekit.train, saekit train."
        )
    for word in words:
        if {"sae": "arch"}.get(word, word) in vary:
            raise ConfigError(f"`{word}` is given for all runs and varies too. Leave one out.")
    k = words.get("k")
    told = {name: value for name, value in words.items() if name != "k"}
    model, raw = described(lm, told, settings, device=device, dtype=dtype)
    found = variants(raw, model, vary, k)
    if "run" not in words and "tokens" not in {*vary, *settings}:
        found = with_length(found, model, words.get("tokens"), shown=shown)
    return found, model


def _whole(
    runs: Mapping[str, Run] | None,
    lm: LanguageModel | str | None,
    out: Path | str | None,
    device: str,
    dtype: str,
) -> tuple[Mapping[str, Run], LanguageModel]:
    """Return runs that are given, or those of a sweep to go on with, and their model."""
    if runs is not None:
        sweep_loop.check_runs(runs)
        first = next(iter(runs.values()))
        if lm is not None:
            check_model(first.model, lm)
        if isinstance(lm, LanguageModel):
            return runs, lm
        model = load_model(first.model, revision=first.revision, device=device, dtype=dtype)
        return runs, model
    if out is None:
        raise ConfigError("Name the folder of the sweep to go on with: out=.")
    return read_begun(place_of("out", out), lm, device=device, dtype=dtype)


def read_begun(
    folder: Path,
    model: LanguageModel | str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
) -> tuple[dict[str, Run], LanguageModel]:
    """Return the runs of a sweep that was begun, and their model, as it was.

    Args:
        folder: of the sweep.
        model: that of the sweep, loaded; or its name; None: as the sweep noted it.
        device: where to load it: auto, cpu or cuda.
        dtype: its number format, which must be the one it had; auto: that one.

    Raises:
        FormatError: there is none, or its model or text are nowhere to be found.
        ConfigError: model or dtype are others.
    """
    runs = sweep_loop.read(folder)
    first, begun = next(iter(runs.values())), sweep_loop.begun_with_of(folder)
    with reading(folder, "a sweep"):
        revision, had = pinned(first.revision, begun["model"]), begun["model"]["dtype"]
    check_begun(folder, first.model, had, model, dtype)
    if model is None or isinstance(model, str):
        model = load_model(first.model, revision=revision, dtype=had, device=device)
    return runs, model


def default_folder(runs: Mapping[str, Run], model: LanguageModel) -> Path:
    """Return where a sweep goes when no folder is given: another for each that differs."""
    digest = short_digest({n: r.to_dict() for n, r in runs.items()}, model.provenance())
    name = next(iter(runs.values())).model.rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / f"sweep-{name}-{digest}"


def write_commands(
    runs: Mapping[str, Run], folder: Path, *, device: str = "auto", dtype: str = "auto"
) -> list[str]:
    """Write a run.json for each SAE and return the command that trains each, for a scheduler.

    Args:
        runs: by name.
        folder: where to.
        device: where the commands load the model.
        dtype: its number format.
    """
    more = [
        word
        for option, value in (("--device", device), ("--dtype", dtype))
        if value != "auto"
        for word in (option, value)
    ]
    commands = []
    for name, run in runs.items():
        file = folder / f"{name}.json"
        write_json(file, run.to_dict())
        words = ["saekit", "train", "--config", str(file), "--out", str(folder / name), *more]
        commands.append(shlex.join(words))
    return commands
