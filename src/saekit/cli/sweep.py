"""`saekit sweep`: many SAEs from one pass of the language model over a text."""

import itertools
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli import train as one
from saekit.core.config import read_value
from saekit.core.errors import ConfigError
from saekit.terminal.common_options import AsJson, Device, Dtype, Quiet, Revision
from saekit.terminal.output import emit
from saekit.terminal.run_flags import given, over
from saekit.training import building

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

_SHORT = {"site": "pair.read", "arch": "sae.name", "d_sae": "sae.d_sae"}


def sweep(
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting and the values to train with, as k=16,32,64 or seed=0,1 or "
            "arch=topk,batch_topk or site=L5.resid_post,L10.resid_post or lr=1e-3,3e-3. If "
            "repeated, all combinations are trained."
        ),
    ] = None,
    model: one.Model = None,
    revision: Revision = None,
    site: one.Site = None,
    target: one.Target = None,
    fold: one.Fold = False,
    corpus: one.CorpusWord = None,
    arch: one.Arch = None,
    d_sae: one.Latents = None,
    k: one.Kept = None,
    tokens: one.Tokens = None,
    epochs: one.Epochs = None,
    seed: one.Seed = None,
    settings: one.Settings = None,
    config: one.ConfigFile = None,
    recipe: one.Recipe = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="SWEEP",
            help="Continue the sweep in this folder, with the settings it was begun with.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the runs to. [runs/sweep-MODEL-DIGEST]")
    ] = None,
    emit_commands: Annotated[
        bool,
        typer.Option(
            "--emit",
            help="Do not train, but write a run.json for each SAE and print the command "
            "that trains it.",
        ),
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train several SAEs that differ in some settings, with one pass of the language model.

    Example: saekit sweep --vary k=16,32,64 --vary seed=0,1 --tokens 1000000 --out runs/ks
    """
    from saekit.core.border import reading
    from saekit.core.files import read_json, write_json
    from saekit.models.hf import load
    from saekit.models.model_files import pinned
    from saekit.training import sweep as many

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not emit_commands:
        raise ConfigError(
            "A sweep runs in one process. Use --emit, and start each command under torchrun."
        )
    if resume is not None:
        runs, folder = many.read(resume), resume
        first = next(iter(runs.values()))
        begun = many.begun_with_of(resume)
        with reading(resume, "a sweep"):
            named = (pinned(first.revision, begun["model"]), begun["model"]["dtype"])
        lm = load(first.model, revision=named[0], dtype=named[1], device=device)
    else:
        points = combinations(vary or [])
        building.check_flags(arch or "topk", tokens, epochs)
        if config is not None or recipe is not None:
            asked = given(
                model=model,
                revision=revision,
                site=site,
                target=target,
                fold=fold or None,
                corpus=corpus,
                arch=arch,
                d_sae=d_sae,
                tokens=tokens,
                epochs=epochs,
                seed=seed,
            )
            raw = over(one.start_from(config, recipe), asked)
            named = (raw["model"], raw.get("revision"))
            lm = load(named[0], revision=named[1], dtype=dtype, device=device)
            building.fit_width(raw, lm)
        elif not vary:
            raise ConfigError(
                "A sweep needs something that differs: --vary k=16,32. For one SAE: saekit train."
            )
        else:
            named = (model or building.DEFAULT_MODEL, revision)
            lm = load(named[0], revision=revision, dtype=dtype, device=device)
            raw = building.made_of(arch or "topk", d_sae, epochs, seed) | building.flags(
                lm,
                model=model,
                revision=revision,
                site=site,
                target=target,
                fold=fold,
                corpus=corpus,
                tokens=tokens,
            )
        runs = {
            label(point): variant(raw, lm, {"k": k} | point, settings or []) for point in points
        }
        if config is None and recipe is None and not any("tokens" in p for p in points):
            runs = building.with_length(runs, lm, tokens, settings, shown=not quiet)
        if len(runs) < len(points):
            raise ConfigError("Two combinations of --vary have one name; give each value once.")
        told = building.short_digest({n: r.to_dict() for n, r in runs.items()}, lm.provenance())
        name = f"sweep-{named[0].rstrip('/').rsplit('/', 1)[-1]}-{told}"
        folder = out or Path("runs") / name
    if emit_commands:
        files = {name: folder / f"{name}.json" for name in runs}
        for name, run in runs.items():
            write_json(files[name], run.to_dict())
        words = {
            n: ["saekit", "train", "--config", str(files[n]), "--out", str(folder / n)]
            for n in runs
        }
        commands = [shlex.join(w) for w in words.values()]
        emit({"commands": commands}, as_json=as_json, lines=commands)
        return
    broken = many.sweep(runs, lm, folder, resume=resume is not None, shown=not quiet)
    rows = many.summary(runs, folder)
    lines = [table(rows), *(f"failed   {name}: {why}" for name, why in broken.items())]
    lines.append(f"next     saekit eval {shlex.quote(str(folder))}")
    emit({"sweep": str(folder), "runs": rows, "broken": broken}, as_json=as_json, lines=lines)
    if broken:
        raise typer.Exit(3)
    one.exit_in_part(read_json(p) for p in folder.glob("*/manifest.json"))


def combinations(vary: list[str]) -> list[dict[str, Any]]:
    """Return every combination of the settings' values.

    Raises:
        ConfigError: a setting has no values, or comes twice.
    """
    axes: dict[str, list[Any]] = {}
    for text in vary:
        path, _, values = text.partition("=")
        if not path or not values:
            raise ConfigError(f"--vary takes a setting and its values, as k=16,32; got {text!r}.")
        if path in axes:
            raise ConfigError(f"--vary {path} comes twice; give all its values at once.")
        axes[path] = _values(values)
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _values(text: str) -> list[Any]:
    """Return values separated by commas, or those of a JSON list."""
    if not text.startswith("["):
        return [read_value(part) for part in text.split(",") if part]
    found = read_value(text)
    if not isinstance(found, list) or not found:
        raise ConfigError(f"--vary takes a JSON list of values; got {text!r:.80}.")
    return found


def label(point: dict[str, Any]) -> str:
    """Return the name of a combination, fit for a folder: ``k16-seed0``."""
    parts = []
    for path, value in point.items():
        plain = value if isinstance(value, str) else json.dumps(value)
        kept = "".join(c if c.isalnum() or c in "._+-" else "_" for c in plain)
        parts.append(kept if path in ("arch", "site") else f"{path.rsplit('.', 1)[-1]}{kept}")
    return "-".join(parts) or "only"


def variant(
    raw: dict[str, Any], lm: "LanguageModel", point: dict[str, Any], settings: list[str]
) -> "Run":
    """Return the run of one combination."""
    raw = json.loads(json.dumps(raw))
    k, extra = None, []
    for path, value in point.items():
        if path == "k":
            k = value
        elif path == "site":
            raw["pair"]["read"] = value.split("+") if isinstance(value, str) else value
        elif path in _SHORT:
            building.put(raw, _SHORT[path], value)
        else:
            extra.append(f"{path}={json.dumps(value)}")
    return building.as_run(raw, lm, building.k_setting(raw["sae"]["name"], k) + settings + extra)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the runs as aligned lines."""
    width = max(len(r["name"]) for r in rows)
    head = f"{'FVU':>7} {'L0':>7} {'dead':>6}   of the last steps of training"
    lines = [f"{'run':<{width}}  {'status':<10} {head}"]
    for r in rows:
        numbers = f"{r['fvu']:>7.4f} {r['l0']:>7.1f} {r['dead']:>6,}" if "fvu" in r else ""
        lines.append(f"{r['name']:<{width}}  {r['status']:<10} {numbers}".rstrip())
    return "\n".join(lines)
