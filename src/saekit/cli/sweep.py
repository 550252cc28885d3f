"""`saekit sweep`: many SAEs from one pass of the language model over a text."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from saekit.cli import train as one
from saekit.core.config import read_setting, read_value
from saekit.core.errors import ConfigError
from saekit.terminal.common_options import AsJson, Device, Dtype, Quiet, Revision
from saekit.terminal.output import emit
from saekit.training import building


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
    from saekit.core.files import read_json
    from saekit.training import sweep as many
    from saekit.training.sources import given

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not emit_commands:
        raise ConfigError(
            "A sweep runs in one process. Use --emit, and start each command under torchrun."
        )
    if resume is not None:
        if emit_commands:
            raise ConfigError("`--emit` trains nothing, so there is nothing to --resume.")
        runs, lm = many.read_begun(resume, device=device)
    else:
        building.check_flags(arch or "topk", tokens, epochs)
        words = given(
            site=site,
            target=target,
            fold=fold or None,
            sae=arch,
            d_sae=d_sae,
            k=k,
            corpus=corpus,
            tokens=tokens,
            epochs=epochs,
            seed=seed,
            run=one.whole(config, recipe),
        )
        own = dict(map(read_setting, settings or [])) | given(revision=revision)
        runs, lm = many.planned(
            model, _values_of(vary or []), words, own, device=device, dtype=dtype, shown=not quiet
        )
    folder = resume or out or many.default_folder(runs, lm)
    if emit_commands:
        commands = many.write_commands(runs, folder, device=device, dtype=dtype)
        emit({"commands": commands}, as_json=as_json, lines=commands)
        return
    made = many.sweep(lm, runs=runs, out=folder, resume=resume is not None, shown=not quiet)
    record = {"sweep": str(folder), "runs": made.table.rows(), "broken": dict(made.failed)}
    lines = [str(made), f"next     saekit eval {shlex.quote(str(folder))}"]
    emit(record, as_json=as_json, lines=lines)
    if made.failed:
        raise typer.Exit(3)
    one.exit_in_part(read_json(p) for p in folder.glob("*/manifest.json"))


def _values_of(vary: list[str]) -> dict[str, list[Any]]:
    """Return the values of each setting, as ``k=16,32`` names them.

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
    return axes


def _values(text: str) -> list[Any]:
    """Return values separated by commas, or those of a JSON list."""
    if not text.startswith("["):
        return [read_value(part) for part in text.split(",") if part]
    found = read_value(text)
    if not isinstance(found, list) or not found:
        raise ConfigError(f"--vary takes a JSON list of values; got {text!r:.80}.")
    return found
